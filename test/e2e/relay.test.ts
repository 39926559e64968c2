/**
 * Migrations of our machines through a relay, and peers that die, lie or are strangers.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { createConnection, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { suite, type TestContext, test } from 'node:test';
import type { StreamReport } from '../../src/inspect/stream-report.ts';
import {
  concatenate,
  deviceSections,
  eof,
  fileHeader,
  fromHex,
  pages,
  postcopyStream,
  ramEnd,
  ramEosAndFooter,
  ramPart,
  ramStart,
} from '../../src/wire/example-stream.ts';
import { encodeShut } from '../../src/wire/return-path.ts';
import { ByteChanger, type Change } from '../support/byte-changer.ts';
import { atEnd } from '../support/cleanup.ts';
import {
  type Pair,
  POSTCOPY,
  proveMove,
  quitBoth,
  SLOW,
  startPair,
  untilCompleted,
} from '../support/pair.ts';
import { RelayProcess } from '../support/relay-process.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { until } from '../support/until.ts';
import { runProgram } from '../support/vm-process.ts';

const FINE = { code: 0, signal: null };
const FAILED = { code: 1, signal: null };
const OPEN_RETURN_PATH = fromHex('08 0001 0000');

/** The type of a section behind a RAM section, where no section has it: well into the stream. */
const A_SECTION_TYPE: Change['find'] = (bytes, at) => {
  if (at < 2 ** 20) return -1;
  const eos = bytes.indexOf(fromHex('0000000000000010 7e'));
  const position = eos + 8 + 5;
  return eos >= 0 && position < bytes.length ? position : -1;
};

interface Relayed extends Pair {
  readonly relay: RelayProcess;
  /** Between source and relay, and between relay and destination. */
  readonly before: ByteChanger;
  readonly after: ByteChanger;
}

async function startRelayed(
  t: TestContext,
  options: Parameters<typeof startPair>[1] = {},
  { change, relayArgs = () => [] }: { change?: Change; relayArgs?: (folder: string) => string[] } = {},
): Promise<Relayed> {
  const pair = await startPair(t, { memoryMib: 32, incoming: 'unix:{folder}/in', ...options });
  const { folder } = pair;
  const after = await ByteChanger.start(t, join(folder, 'after'), join(folder, 'in'));
  const relay = await RelayProcess.start(t, after.address, {
    listenUri: `unix:${join(folder, 'relay')}`,
    args: relayArgs(folder),
  });
  const before = await ByteChanger.start(t, join(folder, 'before'), join(folder, 'relay'), change);
  return { ...pair, relay, before, after };
}

suite('postcopy relay', { timeout: 400_000 }, () => {
  test('passes a precopy on, byte for byte, and keeps it', async (t) => {
    const relayed = await startRelayed(
      t,
      {},
      { relayArgs: (folder) => ['--record', join(folder, 'record')] },
    );
    const { source, before, after, relay, folder } = relayed;
    const following = runProgram(t, ['inspect', '--follow', '--json', join(folder, 'record')]);
    await source.migrate(before.address);
    await untilCompleted(relayed);
    const followed = await following;
    assert.equal(followed.code, 0, followed.stderr);
    assert.equal((JSON.parse(followed.stdout) as StreamReport).isComplete, true);
    assert.deepEqual(await relay.untilExit(), FINE, relay.stderr);
    const passed = Buffer.concat(after.passed);
    assert(passed.equals(Buffer.concat(before.passed)));
    assert(passed.equals(readFileSync(join(folder, 'record'))));
    assert.equal(relay.report.streamBytes, passed.length);
    assert.equal(relay.report.isConfirmed, true);
    await proveMove(relayed);
    await quitBoth(relayed);
  });

  test('passes a postcopy on, and times the requests of its guest', async (t) => {
    const relayed = await startRelayed(t, { guest: 'random', rangeMib: 16, args: POSTCOPY });
    const { source, destination, before, relay } = relayed;
    await source.set({ 'max-bandwidth': 2 ** 20, 'x-postcopy-start-time': 1 });
    await source.migrate(before.address);
    await untilCompleted(relayed);
    assert.deepEqual(await relay.untilExit(), FINE, relay.stderr);
    const { report } = relay;
    const info = await destination.info();
    assert.equal(report.requests.count, info['x-pages-demanded']);
    assert((report.requests.latencyUs?.count ?? 0) + report.requests.late > 0);
    assert.deepEqual(
      report.states.map(({ state }) => state),
      ['setup', 'active', 'device', 'postcopy-device', 'postcopy-active', 'completed'],
    );
    await proveMove(relayed);
    await quitBoth(relayed);
  });

  test('ends the migration in front of an illegal byte', async (t) => {
    const relayed = await startRelayed(t, {}, { change: { find: A_SECTION_TYPE, how: 'flip' } });
    const { source, destination, before, after, relay } = relayed;
    await source.set({ ...SLOW, 'max-bandwidth': 16 * 2 ** 20, 'downtime-limit': 1 });
    await source.migrate(before.address);
    assert.deepEqual(await relay.untilExit(), FAILED);
    const at = before.changedAt as number;
    assert.match(
      relay.stderr,
      new RegExp(
        `illegal byte at 0x${at.toString(16)}: Unknown section type 0x[0-9a-f]+ \\(stream byte ${at}\\)`,
      ),
    );
    assert(after.bytes <= at, `${after.bytes} bytes passed, the illegal one is ${at}`);
    await source.untilStatus('failed');
    assert.equal(await source.runState(), 'running');
    assert.deepEqual(await destination.untilExit(), FAILED);
    await source.untilMoreTicks();
  });

  test('ends when the source is cut off, and so does the destination', async (t) => {
    const relayed = await startRelayed(t, {}, { change: { find: A_SECTION_TYPE, how: 'cut' } });
    const { source, destination, before, relay } = relayed;
    await source.migrate(before.address);
    assert.deepEqual(await relay.untilExit(), FAILED);
    // Which it notices first, by reading or by passing on an answer of the destination.
    assert.match(
      relay.stderr,
      /the source closed its connection: The stream ended in |connection to the source broke/,
    );
    assert.deepEqual(await destination.untilExit(), FAILED);
    await source.untilStatus('failed');
  });

  test('ends when the destination is killed, and the guest runs on at the source', async (t) => {
    const relayed = await startRelayed(t);
    const { source, destination, before, relay } = relayed;
    await source.set({ ...SLOW, 'downtime-limit': 1 });
    await source.migrate(before.address);
    await relay.untilSaid(/active/);
    destination.kill('SIGKILL');
    assert.deepEqual(await relay.untilExit(), FAILED);
    assert.match(relay.stderr, /destination (closed|broke)|connection to the destination/);
    await source.untilStatus('failed');
    assert.equal(await source.runState(), 'running');
  });

  test('waits for a recovery when the connection is lost in postcopy, until ^C', async (t) => {
    const relayed = await startRelayed(t, { guest: 'random', rangeMib: 16, args: POSTCOPY });
    const { source, destination, before, relay } = relayed;
    await source.set({ 'max-bandwidth': 512 * 1024, 'max-postcopy-bandwidth': 64 * 1024 });
    await source.migrate(before.address);
    await source.untilStatus('active');
    await source.qmp.execute('migrate-start-postcopy');
    await until('the guest to run there', async () => (await destination.runState()) === 'running');
    source.kill('SIGKILL');
    await destination.untilStatus('postcopy-paused');
    await relay.untilSaid(/waiting for its recovery at unix:/);
    relay.kill('SIGINT');
    assert.deepEqual(await relay.untilExit(), { code: 130, signal: null });
    assert.equal(relay.report.state, 'postcopy-paused');
  });

  test('goes on when the disk of the recording is full', async (t) => {
    const relayed = await startRelayed(t, {}, { relayArgs: () => ['--record', '/dev/full'] });
    const { source, before, relay } = relayed;
    await source.migrate(before.address);
    await untilCompleted(relayed);
    assert.deepEqual(await relay.untilExit(), FINE);
    assert.match(relay.stderr, /recording to "\/dev\/full" ended, the migration goes on: ENOSPC/);
    assert.match(relay.report.recording?.error ?? '', /ENOSPC/);
  });

  test('ends at once with ^C, and leaves nothing behind', async (t) => {
    const relayed = await startRelayed(t);
    const { folder, source, before, relay } = relayed;
    await source.set({ ...SLOW, 'downtime-limit': 1 });
    await source.migrate(before.address);
    await relay.untilSaid(/active/);
    relay.kill('SIGINT');
    assert.deepEqual(await relay.untilExit(), { code: 130, signal: null });
    await source.untilStatus('failed');
    assert.equal(await source.runState(), 'running');
    assert(!readdirSync(folder).includes('relay'));
  });

  test('says what it cannot do', async (t) => {
    const folder = tempFolder(t);
    const nowhere = await RelayProcess.start(t, `unix:${join(folder, 'nobody')}`);
    const [, host = '', port] = /^tcp:(.*):(\d+)$/.exec(nowhere.address) ?? [];
    createConnection(Number(port), host)
      .on('error', () => {})
      .write(fileHeader);
    assert.deepEqual(await nowhere.untilExit(), FAILED);
    assert.match(nowhere.stderr, /Failed to connect to "unix:.*nobody"/);
    const bad = await runProgram(t, ['relay', 'tcp:1', 'tcp:127.0.0.1:1']);
    assert.equal(bad.code, 2);
    assert.match(bad.stderr, /^postcopy: <listen-uri>: Bad migration URI/);
    const unwritable = await runProgram(t, [
      ...['relay', '--record', join(folder, 'no', 'file'), 'tcp:127.0.0.1:0', 'tcp:127.0.0.1:1'],
    ]);
    assert.equal(unwritable.code, 1);
    assert.match(
      unwritable.stderr,
      /^postcopy: Cannot record to ".*no\/file": no such file or directory \(ENOENT\)\n$/,
    );
  });
});

/**
 * A relay between two sockets that the test holds.
 *
 * @param first what the source says before there is a destination
 * @param meanwhile done before it says that
 */
async function betweenSockets(
  t: TestContext,
  first: Uint8Array,
  meanwhile: (open: () => Promise<Socket>) => Promise<void> = async () => {},
) {
  const folder = tempFolder(t);
  const sockets: Socket[] = [];
  const server = createServer();
  server.listen(join(folder, 'out'));
  const accept = async () => {
    const [socket] = (await once(server, 'connection')) as [Socket];
    socket.on('error', () => {});
    sockets.push(socket);
    return socket;
  };
  const accepted = accept();
  const relay = await RelayProcess.start(t, `unix:${join(folder, 'out')}`, {
    listenUri: `unix:${join(folder, 'in')}`,
  });
  const connect = () =>
    new Promise<Socket | undefined>((resolve) => {
      const socket = createConnection(join(folder, 'in'));
      socket.on('error', () => resolve(undefined));
      socket.on('connect', () => resolve(socket));
    });
  const open = async () => {
    const socket = await until('the relay to take a connection', connect);
    sockets.push(socket);
    return socket;
  };
  atEnd(t, () => {
    for (const socket of sockets) socket.destroy();
    server.close();
    rmSync(folder, { recursive: true, force: true });
  });
  const source = await open();
  await meanwhile(open);
  source.write(first);
  const destination = await accepted;
  const got = { destination: Buffer.alloc(0), source: Buffer.alloc(0) };
  destination.on('data', (bytes) => (got.destination = Buffer.concat([got.destination, bytes])));
  source.on('data', (bytes) => (got.source = Buffer.concat([got.source, bytes])));
  const untilGot = (side: keyof typeof got, bytes: Uint8Array) =>
    until(`the ${side} to get ${bytes.length} bytes`, () => got[side].equals(bytes));
  return { relay, source, destination, got, untilGot, open, accept };
}

const withoutReturnPath = concatenate(
  fileHeader,
  ramStart({ withHostPageSize: false }),
  ramEosAndFooter,
  ramPart,
  pages,
  ramEosAndFooter,
  ramEnd,
  deviceSections,
  eof,
);

suite('postcopy relay, record by record', { timeout: 400_000 }, () => {
  const begun = concatenate(
    fileHeader,
    OPEN_RETURN_PATH,
    ramStart({ withHostPageSize: false }),
    ramEosAndFooter,
    ramPart,
  );

  test('passes each record on when it is complete, and waits for nothing behind it', async (t) => {
    const first = concatenate(begun, pages.subarray(0, 2000));
    const { source, destination, got, untilGot, relay } = await betweenSockets(t, first);
    await untilGot('destination', begun);
    source.write(pages.subarray(2000, 4096 + 15 + 3));
    await untilGot('destination', concatenate(begun, pages.subarray(0, 4096 + 15)));
    destination.write(fromHex('0002 0004 0000'));
    const second = pages.subarray(4096 + 15, 4096 + 15 + 9);
    source.write(second.subarray(3));
    // What the destination has said before is seen no later than this.
    await untilGot('destination', concatenate(begun, pages.subarray(0, 4096 + 15 + 9)));
    assert.equal(got.source.length, 0);
    destination.write(fromHex('0001'));
    await untilGot('source', fromHex('0002 0004 00000001'));
    source.destroy();
    assert.deepEqual(await relay.untilExit(), FAILED);
  });

  test('passes a whole postcopy on, whatever pieces it comes in, and what is said to it', async (t) => {
    const { source, destination, untilGot, relay } = await betweenSockets(t, postcopyStream.subarray(0, 3));
    for (let position = 3; position < postcopyStream.length; position += 997) {
      source.write(postcopyStream.subarray(position, position + 997));
      await new Promise(setImmediate);
    }
    await untilGot('destination', postcopyStream);
    destination.write(fromHex('0003 0013 0000000000001000 00001000 06 70632e72616d'));
    destination.end(encodeShut(0));
    await untilGot(
      'source',
      concatenate(fromHex('0003 0013 0000000000001000 00001000 06 70632e72616d'), encodeShut(0)),
    );
    source.end();
    assert.deepEqual(await relay.untilExit(), FINE, relay.stderr);
    assert.equal(relay.report.requests.late, 1);
  });

  test('takes a recovery for the end of the connection before it, which nobody closed', async (t) => {
    const untilRam = Buffer.from(postcopyStream).lastIndexOf(ramPart);
    const inPostcopy = postcopyStream.subarray(0, untilRam);
    const { source, destination, untilGot, relay, open, accept } = await betweenSockets(t, inPostcopy);
    await untilGot('destination', inPostcopy);
    const again = await open();
    const accepted = accept();
    again.write(fromHex('08 0009 0000'));
    await Promise.all([once(source, 'close'), once(destination, 'close')]);
    const destinationAgain = await accepted;
    destinationAgain.write(encodeShut(0));
    again.end(concatenate(ramPart, pages, ramEosAndFooter, ramEnd, eof));
    destinationAgain.resume().end();
    assert.deepEqual(await relay.untilExit(), FINE, relay.stderr);
    assert.match(relay.stderr, /begun a recovery over another connection/);
    assert.equal(relay.report.connections, 2);
  });

  test('takes a destination that closes first for one that has all, where no answer was asked for', async (t) => {
    const { source, destination, untilGot, relay } = await betweenSockets(t, withoutReturnPath);
    await untilGot('destination', withoutReturnPath);
    destination.end();
    source.end();
    assert.deepEqual(await relay.untilExit(), FINE, relay.stderr);
    assert.equal(relay.report.isConfirmed, false);

    const cut = await betweenSockets(t, withoutReturnPath.subarray(0, 1000));
    cut.destination.end();
    assert.deepEqual(await cut.relay.untilExit(), FAILED);
    assert.match(cut.relay.stderr, /the destination closed its connection/);
  });

  for (const { what, bytes, text } of [
    {
      what: 'an unknown message',
      bytes: '0009 0000',
      text: /illegal byte at 0x0: Unknown return path message 0x9/,
    },
    {
      what: 'a request for a block that does not exist',
      bytes: '0003 000e 0000000000001000 00001000 01 61',
      text: /Pages of "a" are asked for, which does not exist/,
    },
    {
      what: 'a request beyond its block',
      bytes: '0003 0013 0000000000008000 00001000 06 70632e72616d',
      text: /up to 0x9000 of "pc.ram", which ends at 0x8000 \(return path byte/,
    },
  ]) {
    test(`keeps ${what} from the source`, async (t) => {
      const { source, destination, untilGot, relay, got } = await betweenSockets(t, begun);
      await untilGot('destination', begun);
      destination.write(fromHex(bytes));
      await once(source, 'close');
      assert.deepEqual(await relay.untilExit(), FAILED);
      assert.match(relay.stderr, text);
      assert.equal(got.source.length, 0);
    });
  }

  test('refuses strangers, and what opens further connections', async (t) => {
    const { relay } = await betweenSockets(t, begun, async (open) => {
      (await open()).write('GET / HTTP/1.0\r\n\r\n');
      (await open()).end();
      await open();
    });
    await relay.untilSaid(/another connection from unix:.* was refused: one migration is under way/);
    await relay.untilSaid(/said nothing and was closed/);
    assert.deepEqual(await relay.untilExit(), FAILED);
    assert.match(relay.stderr, /switch the capability "postcopy-preempt" off on both sides/);
  });

  test('waits for a source, and connects no stranger to the destination', async (t) => {
    const folder = tempFolder(t);
    const server = createServer().listen(join(folder, 'out'));
    atEnd(t, () => server.close());
    let connections = 0;
    server.on('connection', () => connections++);
    const path = join(folder, 'in');
    const relay = await RelayProcess.start(t, `unix:${join(folder, 'out')}`, { listenUri: `unix:${path}` });
    const say = (bytes: string | Uint8Array) =>
      createConnection(path)
        .on('error', () => {})
        .end(bytes);
    say('');
    await relay.untilSaid(/a connection from unix:.* said nothing and was closed/);
    say('GET / HTTP/1.0\r\n\r\n');
    await relay.untilSaid(/a connection from unix:.* was refused: it is no migration stream/);
    say(fromHex('11223344 00000001'));
    assert.deepEqual(await relay.untilExit(), FAILED);
    assert.match(relay.stderr, /switch the capability "multifd" off on both sides/);
    assert.equal(connections, 0);
  });

  test('passes on the recovery of a migration that it has not seen', async (t) => {
    const first = fromHex('08 000a 0007 06 70632e72616d 08 000a 0005 04 68756765 08 0009 0000');
    const { source, destination, untilGot, relay } = await betweenSockets(t, first);
    source.write(concatenate(ramPart, pages, ramEosAndFooter, ramEnd, eof));
    await untilGot('destination', concatenate(first, ramPart, pages, ramEosAndFooter, ramEnd, eof));
    destination.end(encodeShut(0));
    await untilGot('source', encodeShut(0));
    source.end();
    assert.deepEqual(await relay.untilExit(), FINE, relay.stderr);
    assert.equal(relay.report.postcopyPages.normal, 3);
  });
});
