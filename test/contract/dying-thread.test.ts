/**
 * A migration thread that dies by a mistake of ours: what is said, that a guest waits at a missing page nevertheless, and that
 * another thread goes on where it was.
 *
 * The test is the machine and the other side, and makes the mistake: an answer to a question that was not asked.
 */
import assert from 'node:assert/strict';
import { Socket } from 'node:net';
import { type TestContext, test } from 'node:test';
import { type MessagePort, Worker } from 'node:worker_threads';
import { closeFd } from '../../src/linux/fd.ts';
import { mapAnonymous } from '../../src/linux/memory.ts';
import { signalEventfd } from '../../src/linux/poll.ts';
import { socketPair } from '../../src/linux/socket-pair.ts';
import { PageBitmap } from '../../src/memory/page-bitmap.ts';
import { DEFAULT_CAPABILITIES } from '../../src/migration/capabilities.ts';
import {
  advised,
  allPages,
  askBitmap,
  devices,
  discard,
  eof,
  header,
  openReturnPath,
  part,
  ping,
  RIG_BLOCKS,
  RIG_DEVICE,
  RIG_MACHINE_TYPE,
  ramEnd,
  ramStart,
  resume,
  wholePackage,
} from '../../src/migration/destination-rig.ts';
import { DEFAULT_PARAMETERS } from '../../src/migration/parameters.ts';
import type { MachineReply, MachineRequest } from '../../src/threads/messages.ts';
import { FdChannel } from '../../src/transport/channel.ts';
import { type MigrationHost, MigrationThread } from '../../src/vm/migration-thread.ts';
import { MigrationCommand, PingValue } from '../../src/wire/commands.ts';
import { encodePong, encodeRecvBitmap, encodeResumeAck, encodeShut } from '../../src/wire/return-path.ts';
import { ReturnPathDecoder } from '../../src/wire/return-path-decoder.ts';
import { atEnd } from '../support/cleanup.ts';
import { until } from '../support/until.ts';
import type { PageReaderData } from './page-reader.ts';

const PAGE = 4096;
const LIMIT = { timeout: 60_000 };

/** A connection: one end for a migration thread, the other the test's. */
class Peer {
  readonly channel: FdChannel;
  readonly #socket: Socket;
  #received = Buffer.alloc(0);
  isClosed = false;

  constructor(t: TestContext) {
    const [fd, peerFd] = socketPair();
    this.channel = new FdChannel({ fd, hasReturnPath: true, peer: 'test' });
    this.#socket = new Socket({ fd: peerFd });
    this.#socket.on('data', (bytes) => {
      this.#received = Buffer.concat([this.#received, bytes]);
    });
    this.#socket.on('error', () => {});
    this.#socket.on('close', () => {
      this.isClosed = true;
    });
    atEnd(t, () => this.#socket.destroy());
  }

  get received(): Buffer {
    return this.#received;
  }

  say(...pieces: readonly Uint8Array[]): void {
    for (const piece of pieces) this.#socket.write(piece);
  }
}

/** A machine with memory but without a guest, and what its migration says. */
class Machine {
  readonly host: MigrationHost;
  readonly statuses: string[] = [];
  readonly messages: string[] = [];
  readonly kept: (boolean | undefined)[] = [];
  readonly asked: string[] = [];
  /** It is asked, and answers nothing by itself. */
  isSilent = false;
  readonly memories = RIG_BLOCKS.map(({ lengthBytes }) => mapAnonymous(lengthBytes));
  /** The last that was attached. */
  #port: MessagePort | undefined;
  #wakeFd = -1;
  readonly #attached: { port: MessagePort; wakeFd: number }[] = [];

  constructor() {
    this.host = {
      ramBlocks: RIG_BLOCKS.map((block, index) => ({ ...block, hostAddress: this.addressOf(index, 0) })),
      machineType: RIG_MACHINE_TYPE,
      deviceSection: RIG_DEVICE,
      traces: [],
      attachMachine: (port, wakeFd) => {
        [this.#port, this.#wakeFd] = [port, wakeFd];
        this.#attached.push({ port, wakeFd });
        port.on('message', ({ id, kind }: MachineRequest) => {
          this.asked.push(kind);
          if (this.isSilent) return;
          if (kind === 'load-devices') this.reply({ id, kind: 'devices-loaded' });
          if (kind === 'resume') this.reply({ id, kind: 'resumed', downtime: undefined });
          if (kind === 'pause') this.reply({ id, kind: 'paused', wasRunning: true });
          if (kind === 'save-devices') this.reply({ id, kind: 'devices-saved', state: Uint8Array.of(0xab) });
        });
      },
      onStatus: (status, error) => {
        this.statuses.push(status);
        if (error !== undefined) this.messages.push(error);
      },
      onPass: () => {},
      onGuest: () => {},
      onArrived: (isRunning) => this.statuses.push(isRunning ? 'running' : 'paused'),
      onEnded: () => this.statuses.push('ended'),
      onGuestKept: (wasRunning) => this.kept.push(wasRunning),
      onGuestMayRun: () => this.statuses.push('may run'),
      onTrace: () => {},
      onMessage: (text) => this.messages.push(text),
    };
  }

  addressOf(block: number, page: number): bigint {
    return (this.memories[block] as { address: bigint }).address + BigInt(page * PAGE);
  }

  reply(answer: MachineReply): void {
    this.#port?.postMessage(answer);
    signalEventfd(this.#wakeFd);
  }

  get deaths(): number {
    return this.messages.filter((text) => text.startsWith('A migration thread died')).length;
  }

  async until(status: string, times = 1): Promise<void> {
    await until(
      `"${status}" for time ${times}`,
      () => this.statuses.filter((seen) => seen === status).length >= times,
      () => `${this.statuses.join(', ')}; ${this.messages.join('\n')}`,
    );
  }

  close(): void {
    for (const { port, wakeFd } of this.#attached) {
      port.close();
      closeFd(wakeFd);
    }
  }
}

/** A thread that reads a page, as a guest would. */
function readPage(machine: Machine, block: number, page: number) {
  const answer = new Int32Array(new SharedArrayBuffer(8));
  const data: PageReaderData = { address: machine.addressOf(block, page), answer };
  const worker = new Worker(new URL('./page-reader.js', import.meta.url), { workerData: data });
  return {
    worker,
    begun: () => until('the reader to come to the page', () => Atomics.load(answer, 1) === 1),
    ended: () => until('the reader to go on', () => Atomics.load(answer, 0) !== 0),
    isWaiting: () => Atomics.load(answer, 0) === 0,
    /** What it has read. */
    value: () => Atomics.load(answer, 0) - 1,
  };
}

/** A destination whose guest runs; pages 1 and 2 of its first block are missing. */
async function runningDestination(t: TestContext) {
  const machine = new Machine();
  const peer = new Peer(t);
  const migration = MigrationThread.startDestination(machine.host, peer.channel, {
    staysPaused: false,
    peerTimeoutMs: 60_000,
  });
  peer.say(advised, allPages, discard(0, 1, 2), ping(2), wholePackage);
  await machine.until('running');
  return { machine, peer, migration };
}

async function staysWaiting(isWaiting: () => boolean): Promise<void> {
  const fromMs = performance.now();
  await until('a moment', () => performance.now() - fromMs > 300);
  assert.ok(isWaiting(), 'a missing page was read');
}

test(
  'when the thread of a destination dies, the guest waits at a missing page, and another thread goes on',
  LIMIT,
  async (t) => {
    const { machine, peer, migration } = await runningDestination(t);
    const reader = readPage(machine, 0, 1);
    await reader.begun();

    // The thread died before it could note the page that it had placed.
    const received = new PageBitmap(4, migration.bitmapWords[0] as Int32Array);
    received.clear(3);
    machine.reply({ id: 0, kind: 'devices-loaded' });
    await machine.until('postcopy-paused');
    assert.match(machine.messages.join('\n'), /A migration thread died: .*; another takes its place/);
    assert.match(
      machine.messages.at(-1) ?? '',
      /one of 2 pages that are only at the source.*recover the migration/s,
    );
    assert.ok(received.isSet(3), 'a page that is there has come');
    await until('the connection to be closed', () => peer.isClosed);
    assert.equal((await migration.query())?.status, 'postcopy-paused');
    await staysWaiting(reader.isWaiting);

    const next = new Peer(t);
    await migration.recover(next.channel);
    next.say(askBitmap(0), askBitmap(1), resume);
    await machine.until('postcopy-active', 2);
    await until('the page to be asked for again', () => {
      const said = [...new ReturnPathDecoder({ maxBitmapBytes: 64 }).push(next.received)];
      return said.some((message) => message.type === 'req-pages' && message.start === PAGE);
    });
    next.say(part(0, { 1: 7, 2: 8 }), ramEnd, eof);
    await machine.until('completed');
    await reader.ended();
    await migration.close();
    assert.equal(machine.deaths, 1);
    machine.close();
    await reader.worker.terminate();
  },
);

test('threads that die again and again are given up, and the guest reads no zeros', LIMIT, async (t) => {
  const { machine, migration } = await runningDestination(t);
  const reader = readPage(machine, 0, 1);
  await reader.begun();
  for (let death = 1; death <= 3; death++) {
    machine.reply({ id: 0, kind: 'devices-loaded' });
    await machine.until('postcopy-paused', death);
  }
  machine.reply({ id: 0, kind: 'devices-loaded' });
  await machine.until('ended');
  assert.match(machine.messages.at(-1) ?? '', /cannot be recovered any more/);
  assert.equal(await migration.query(), undefined);
  await staysWaiting(reader.isWaiting);

  // The guest is given up: now nothing may wait any more.
  await migration.close();
  await reader.ended();
  machine.close();
  await reader.worker.terminate();
});

test(
  'when the thread of a destination dies as the guest begins to run after precopy, the guest is stopped',
  LIMIT,
  async (t) => {
    const machine = new Machine();
    const peer = new Peer(t);
    const migration = MigrationThread.startDestination(machine.host, peer.channel, {
      staysPaused: false,
      peerTimeoutMs: 60_000,
    });
    machine.isSilent = true;
    peer.say(header, openReturnPath, ramStart, allPages, ramEnd, devices(), eof);
    await until('the devices to be loaded', () => machine.asked.includes('load-devices'));
    machine.reply({ id: 0, kind: 'devices-loaded' });
    await until('the guest to be told to run', () => machine.asked.includes('resume'));
    machine.reply({ id: 0, kind: 'devices-loaded' });
    await machine.until('ended');
    assert.deepEqual(machine.statuses.slice(-3), ['failed', 'may run', 'ended']);
    assert.match(machine.messages.at(-1) ?? '', /may have begun to run: it is stopped here/);
    await until('the source to hear of it', () => peer.isClosed);
    await migration.close();
    machine.close();
  },
);

/** A source in precopy, its memory full of ones. */
function startSource(t: TestContext, maxBandwidth: number) {
  const machine = new Machine();
  for (const memory of machine.memories) memory.bytes.fill(1);
  const peer = new Peer(t);
  const migration = MigrationThread.startSource(machine.host, peer.channel, {
    capabilities: { ...DEFAULT_CAPABILITIES, 'postcopy-ram': true },
    parameters: { ...DEFAULT_PARAMETERS, 'max-bandwidth': maxBandwidth },
    dirtyTracking: 'async',
  });
  return { machine, peer, migration };
}

test(
  'when the thread of a source dies in precopy, the migration fails and the guest is kept',
  LIMIT,
  async (t) => {
    const { machine, peer, migration } = startSource(t, 1);
    await machine.until('active');
    machine.reply({ id: 0, kind: 'devices-saved', state: Uint8Array.of(1) });
    await machine.until('ended');
    assert.deepEqual(machine.statuses, ['setup', 'active', 'failed', 'ended']);
    assert.deepEqual(machine.kept, [undefined]);
    await until('the destination to hear of it', () => peer.isClosed);
    await migration.close();
    machine.close();
  },
);

test(
  'when the thread of a source dies in postcopy, another asks the destination what it has, and goes on',
  LIMIT,
  async (t) => {
    const { machine, peer, migration } = startSource(t, 1);
    await machine.until('active');
    await migration.ask({ kind: 'start-postcopy' });
    await machine.until('postcopy-active');
    peer.say(encodePong(PingValue.IN_PACKAGE));
    await until('the source to know', async () => (await migration.query()) !== undefined);

    machine.reply({ id: 0, kind: 'devices-saved', state: Uint8Array.of(1) });
    await machine.until('postcopy-paused');
    assert.ok(migration.isGuestElsewhere, 'the destination has answered what it can only after RUN');
    await until('the connection to be closed', () => peer.isClosed);

    const next = new Peer(t);
    await migration.recover(next.channel);
    const command = (type: number) => Buffer.from([8, 0, type]);
    await until('bitmaps to be asked for', () =>
      next.received.includes(command(MigrationCommand.RECV_BITMAP)),
    );
    next.say(...RIG_BLOCKS.map(({ idstr }) => encodeRecvBitmap(idstr, new Uint8Array(8))));
    await until('it to go on', () => next.received.includes(command(MigrationCommand.POSTCOPY_RESUME)));
    next.say(encodeResumeAck());
    const pages = RIG_BLOCKS.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
    await until('all pages', () => next.received.length > pages && next.received.at(-1) === 0);
    assert.equal(next.received.filter((byte) => byte === 1).length >= pages, true);
    next.say(encodeShut(0));
    await machine.until('completed');
    await migration.close();
    assert.ok(migration.isGuestElsewhere);
    assert.deepEqual(machine.kept, []);
    machine.close();
  },
);
