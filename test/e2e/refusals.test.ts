/**
 * What is refused, with which words and which exit code: wrong usage, wrong addresses, wrong peers.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { suite, type TestContext, test } from 'node:test';
import { ByteWriter } from '../../src/wire/byte-writer.ts';
import { fileHeaderBytes, writeFileHeader } from '../../src/wire/sections.ts';
import { atEnd } from '../support/cleanup.ts';
import { startPair, startSource } from '../support/pair.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { assertOneGuest } from '../support/ticks.ts';
import { until } from '../support/until.ts';
import { runProgram, VmProcess } from '../support/vm-process.ts';

const INCOMING = ['--memory', '32M', '--incoming', 'tcp:127.0.0.1:0'];

suite('refusals', { timeout: 400_000 }, () => {
  test('wrong usage ends with code 2 and no stack trace', async (t) => {
    const cases: [args: string[], text: RegExp][] = [
      [['run'], /Nothing to run/],
      [['run', '--guest', 'nobody'], /--guest: must be counter, random, reader, got "nobody"/],
      [['run', '--guest', 'counter', '--memory', 'lots'], /--memory:/],
      [['run', '--guest', 'counter', '--capability', 'speed=on'], /speed/],
      [['run', '--guest', 'counter', '--parameter', 'downtime-limit=soon'], /downtime-limit|soon/],
      [['run', '--guest', 'counter', '--dirty-tracking', 'never'], /--dirty-tracking/],
      [['run', '--no-such-option'], /unknown option/],
      [['move'], /unknown command/],
    ];
    for (const [args, text] of cases) {
      const { code, stderr } = await runProgram(t, args);
      assert.equal(code, 2, `${args.join(' ')}: ${stderr}`);
      assert.match(stderr, text);
      assert.doesNotMatch(stderr, /\n\s+at /);
    }
  });

  test('an address that cannot be listened at ends with code 1, one that is none with code 2', async (t) => {
    const taken = await listen(t, () => {});
    const cases: [uri: string, text: RegExp, wanted: number][] = [
      [`tcp:127.0.0.1:${taken}`, /address already in use \(is another destination listening there\?\)/, 1],
      ['carrier-pigeon:roof', /carrier-pigeon/, 2],
    ];
    for (const [uri, text, wanted] of cases) {
      const { code, stderr } = await runProgram(t, ['run', '--memory', '32M', '--incoming', uri]);
      assert.equal(code, wanted, stderr);
      assert.match(stderr, text);
      assert.doesNotMatch(stderr, /\n\s+at /);
    }
  });

  test('a destination refuses what is no stream of its machine, says so, and ends with code 1', async (t) => {
    const machine = (name: string) => {
      const writer = new ByteWriter(new Uint8Array(fileHeaderBytes(name)));
      writeFileHeader(writer, name);
      return writer.subarray();
    };
    const cases: [bytes: Uint8Array, text: RegExp][] = [
      [Buffer.from('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n'), /Not a migration stream|magic/i],
      [machine('v86-0.0.1'), /v86-0\.0\.1.*v86-0\.5/s],
      [machine('pc-i440fx-7.2'), /pc-i440fx-7\.2.*v86-0\.5/s],
    ];
    for (const [bytes, text] of cases) {
      const destination = await VmProcess.start(t, tempFolder(t), 'destination', INCOMING);
      const peer = await connectTo(t, await destination.address());
      peer.write(bytes);
      assert.deepEqual(await destination.untilExit(), { code: 1, signal: null });
      assert.match(destination.stderr, text);
      assert.doesNotMatch(destination.stderr, /\n\s+at /);
    }
  });

  test('a destination to which nobody speaks can be asked, and ended', async (t) => {
    const destination = await VmProcess.start(t, tempFolder(t), 'destination', INCOMING);
    await connectTo(t, await destination.address());
    await destination.untilStatus('active');
    assert.equal(await destination.runState(), 'inmigrate');
    await assert.rejects(destination.qmp.execute('cont'), /has not come yet/);
    assert.deepEqual(await destination.quit(), { code: 0, signal: null });
  });

  test('machines of different size refuse each other, and the guest runs on', async (t) => {
    const pair = await startPair(t, { memoryMib: 32, destinationArgs: ['--memory', '64M'] });
    const { source, destination } = pair;
    await source.migrate(await destination.address());
    await source.untilStatus('failed');
    assert.deepEqual(await destination.untilExit(), { code: 1, signal: null });
    await destination.untilSaid(/"pc\.ram".*33554432.*67108864|"pc\.ram".*67108864.*33554432/s);
    await until('the guest to run', async () => (await source.runState()) === 'running');
    await source.untilMoreTicks();
    assertOneGuest(source.console);
  });

  test('a source survives peers that refuse, hang up or talk nonsense, and its guest runs on', async (t) => {
    const source = await startSource(t, tempFolder(t), { memoryMib: 32 });
    await assert.rejects(source.migrate('tcp:127.0.0.1:1'), /connection refused/);
    await assert.rejects(source.migrate('unix:/nonexistent/socket'), /no such file or directory/);

    const hangsUp = await listen(t, (socket) => socket.destroy());
    const talksNonsense = await listen(t, (socket) => {
      socket.resume();
      socket.write(Buffer.from('ffffffffffffffff', 'hex'));
    });
    for (const port of [hangsUp, talksNonsense]) {
      await source.migrate(`tcp:127.0.0.1:${port}`);
      await until(
        'the failure',
        async () => (await source.info()).status === 'failed',
        () => source.describe(),
      );
      assert.match(
        (await source.info())['error-desc'] ?? '',
        /^Connection lost before the guest was handed over: /,
      );
      await until('the guest to run', async () => (await source.runState()) === 'running');
      await source.untilMoreTicks();
    }
    assertOneGuest(source.console);
    assert.deepEqual(await source.quit(), { code: 0, signal: null });
  });

  test('a migration to a peer that never reads can be cancelled and ended', async (t) => {
    const source = await startSource(t, tempFolder(t), { memoryMib: 32 });
    const port = await listen(t, (socket) => socket.pause());
    await source.migrate(`tcp:127.0.0.1:${port}`);
    await source.untilStatus('active');
    await source.qmp.execute('migrate_cancel');
    assert.equal((await source.info()).status, 'cancelled');
    assert.equal(await source.runState(), 'running');
    await source.migrate(`tcp:127.0.0.1:${port}`);
    await until('the second one', async () => (await source.info()).status === 'active');
    assert.deepEqual(await source.quit(), { code: 0, signal: null });
  });
});

/** @returns the port at which it listens until the test ends */
async function listen(t: TestContext, onConnection: (socket: Socket) => void): Promise<number> {
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on('error', () => {});
    onConnection(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  atEnd(t, () => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return (server.address() as AddressInfo).port;
}

async function connectTo(t: TestContext, uri: string): Promise<Socket> {
  const socket = connect(Number(uri.split(':').at(-1)), '127.0.0.1');
  socket.on('error', () => {});
  atEnd(t, () => socket.destroy());
  await once(socket, 'connect');
  return socket;
}
