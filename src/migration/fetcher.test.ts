import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PageBitmap } from '../memory/page-bitmap.ts';
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import { NO_TRACE } from '../telemetry/trace-events.ts';
import { writeDeviceSection } from '../wire/device-sections.ts';
import { MIN_STREAM_BUFFER_BYTES } from '../wire/stream-decoder.ts';
import { StreamError } from '../wire/stream-error.ts';
import { DEFAULT_CAPABILITIES } from './capabilities.ts';
import { capturedDevices } from './device-state.ts';
import { NO_CLAIMS, type PageClaims } from './fetch-plan.ts';
import { Fetcher, type FetchStore, SILENT_MS } from './fetcher.ts';
import { DEFAULT_PARAMETERS } from './parameters.ts';
import type { PulledSnapshot } from './pull-session.ts';
import { SourceMigration } from './source.ts';

const BLOCKS = [
  { idstr: 'pc.ram', lengthBytes: 300 * TARGET_PAGE_BYTES, pageSizeBytes: TARGET_PAGE_BYTES },
  { idstr: 'vga.vram', lengthBytes: 20 * TARGET_PAGE_BYTES, pageSizeBytes: TARGET_PAGE_BYTES },
];
const DEVICES = writeDeviceSection({
  ...{ sectionId: 7, idstr: 'rig', instanceId: 0, versionId: 1 },
  body: Uint8Array.of(1, 2, 3),
});
/** Every second page of the main block is zero. */
const hasContent = (block: number, page: number) => block === 1 || page % 2 === 0 || page < 40;
const CONTENT_PAGES = 40 + 130 + 20;

/** A server: the source engine, over pages that say their number. */
class Server {
  readonly engine: SourceMigration;
  /** Pages in the order they were sent. */
  readonly sent: string[] = [];
  readonly #target = new Uint8Array(64 * 1024);
  readonly #deeds: (() => void)[] = [];
  #nowMs = 0;

  constructor(devices = DEVICES) {
    const bitmaps = () => BLOCKS.map(({ lengthBytes }) => new PageBitmap(lengthBytes / TARGET_PAGE_BYTES));
    this.engine = new SourceMigration({
      memory: {
        blocks: BLOCKS,
        copyPage: (block, offset, target, at) => {
          const page = offset / TARGET_PAGE_BYTES;
          this.sent.push(`${block}:${page}`);
          target.fill(page + 1, at, at + TARGET_PAGE_BYTES);
        },
        isZeroPage: () => false,
      },
      dirtyTracker: {
        start: (touched) => {
          touched.forEach((bitmap, block) => {
            for (let page = 0; page < bitmap.pageCount; page++) if (hasContent(block, page)) bitmap.set(page);
          });
        },
        sync: () => {},
        stop: () => {},
      },
      dirtyBitmaps: bitmaps(),
      machineType: 'pc-1',
      encodeDevices: capturedDevices(new Uint8Array()),
      capabilities: { ...DEFAULT_CAPABILITIES, 'postcopy-ram': true },
      parameters: DEFAULT_PARAMETERS,
      hasReturnPath: true,
      isPulled: true,
      effects: {
        pauseGuest: () => this.#deeds.push(() => this.engine.guestPaused(true)),
        saveDevices: () => this.#deeds.push(() => this.engine.devicesSaved(devices, this.#nowMs)),
        resumeGuest: () => {},
        statusChanged: () => {},
        passBegins: () => {},
      },
      trace: NO_TRACE,
    });
    this.engine.start(0);
    this.engine.startPostcopy();
  }

  /** What goes out next, nothing if there is nothing. */
  next(): Uint8Array {
    // Before the switch it waits a second for the answer to a ping.
    if (this.engine.status === 'active') this.#nowMs += 1001;
    const count = this.engine.fill(this.#target, this.#nowMs);
    this.engine.sent(count, this.#nowMs);
    this.#deeds.shift()?.();
    return this.#target.slice(0, count);
  }
}

interface RigOptions {
  readonly claims?: PageClaims;
  readonly present?: readonly PageBitmap[];
  readonly here?: (block: number, page: number) => boolean;
}

class Rig {
  server = new Server();
  readonly buffer = new Uint8Array(MIN_STREAM_BUFFER_BYTES);
  readonly available = BLOCKS.map(({ lengthBytes }) => PageBitmap.shared(lengthBytes / TARGET_PAGE_BYTES));
  readonly fetcher: Fetcher;
  snapshot: PulledSnapshot | undefined;
  nowMs = 1000;
  isFull = false;
  arrivals = 0;
  resumptions = 0;
  readonly stored = new Map<string, number>();
  readonly #options: RigOptions;
  readonly #out: Uint8Array[] = [];
  #written: string[] = [];

  constructor(options: RigOptions = {}) {
    this.#options = options;
    this.fetcher = new Fetcher(this.buffer, {
      identified: (snapshot) => {
        this.snapshot = snapshot;
      },
      resumed: () => this.resumptions++,
      pagesArrived: () => {
        assert.deepEqual(this.#written, [], 'nobody is told before all is in the store');
        this.arrivals++;
      },
      send: (message) => this.#out.push(message),
    });
    this.fetcher.beginSession(this.nowMs);
  }

  /** The connection is gone, with what was on its way to the server. */
  lose(): void {
    this.#out.length = 0;
    this.fetcher.sessionLost();
  }

  /** Bytes both ways until nothing moves; the store is there when the snapshot is known. */
  run(maxRounds = 10_000, stepBytes = 5000): void {
    let isStoreSet = this.fetcher.info()['content-pages'] > 0;
    for (let round = 0; round < maxRounds; round++) {
      const back = Buffer.concat(this.#out.splice(0));
      if (back.length > 0) this.server.engine.receive(back, this.nowMs);
      const bytes = this.server.next();
      for (let at = 0; at < bytes.length; ) {
        const free = this.fetcher.free();
        const some = bytes.subarray(at, at + Math.min(stepBytes, free.length));
        free.set(some);
        this.fetcher.received(some.length, this.nowMs);
        at += some.length;
      }
      if (this.snapshot !== undefined && !isStoreSet) {
        isStoreSet = true;
        this.#setStore(this.snapshot);
      }
      this.fetcher.tick(this.nowMs);
      if (bytes.length === 0 && this.#out.length === 0 && round > 10) return;
    }
  }

  #setStore({ content }: PulledSnapshot): void {
    const { claims = NO_CLAIMS, present, here = () => false } = this.#options;
    content.forEach((bitmap, block) => {
      for (let page = 0; page < bitmap.pageCount; page++) {
        if (!bitmap.isSet(page) || here(block, page)) this.available[block]?.set(page);
      }
    });
    const rig = this;
    const store: FetchStore = {
      available: this.available,
      claims,
      present,
      writePage: (block, page, position) => {
        this.#written.push(`${block}:${page}`);
        this.stored.set(`${block}:${page}`, this.buffer[position] as number);
      },
      flush: () => {
        for (const name of this.#written.splice(0)) {
          const [block = 0, page = 0] = name.split(':').map(Number);
          assert.equal(this.available[block]?.isSet(page), false, 'available only when it is stored');
        }
      },
      get isFull() {
        return rig.isFull;
      },
    };
    this.fetcher.setStore(store, []);
  }
}

test('Fetcher learns the snapshot, fetches every page with content once, and nothing else', () => {
  const rig = new Rig();
  rig.run();
  assert.equal(rig.snapshot?.machineType, 'pc-1');
  assert.deepEqual(rig.snapshot?.blocks, BLOCKS);
  assert.deepEqual(Buffer.from(rig.snapshot?.deviceSections ?? []), Buffer.from(DEVICES));
  assert.match(rig.snapshot?.digest ?? '', /^[0-9a-f]{64}$/);
  assert.ok(rig.fetcher.isComplete);
  assert.equal(rig.server.sent.length, CONTENT_PAGES);
  assert.equal(new Set(rig.server.sent).size, CONTENT_PAGES);
  for (const [name, content] of rig.stored) {
    assert.equal(content, (Number(name.split(':')[1]) + 1) % 256, name);
  }
  assert.equal(rig.fetcher.info()['read-ahead-pages'], CONTENT_PAGES);
  rig.fetcher.endSession();
  rig.run();
  assert.equal(rig.server.engine.status, 'completed');
});

test('Fetcher asks for a page that the guest waits for before all others, and tells how long it took', () => {
  const rig = new Rig();
  rig.run(6);
  const before = rig.server.sent.length;
  rig.fetcher.demand(1, 7, rig.nowMs);
  rig.fetcher.demand(1, 7, rig.nowMs);
  rig.nowMs += 25;
  rig.run(1);
  assert.equal(rig.server.sent[before], '1:7');
  rig.run();
  const info = rig.fetcher.info();
  assert.deepEqual([info['demanded-pages'], info['latency-us']?.count], [1, 1]);
  assert.ok(Math.abs((info['latency-us']?.max ?? 0) - 25_000) < 100);
  assert.equal(rig.server.sent.length, CONTENT_PAGES);
  const arrivals = rig.arrivals;
  rig.fetcher.demand(1, 7, rig.nowMs);
  assert.equal(rig.arrivals, arrivals + 1, 'whoever asks for what is here is told');
});

test('Fetcher keeps asking for few at a time', () => {
  const rig = new Rig();
  rig.isFull = true;
  rig.run();
  assert.deepEqual(rig.server.sent, []);
  assert.equal(rig.fetcher.wakeAtMs(rig.nowMs), Number.POSITIVE_INFINITY);
  rig.fetcher.demand(0, 3, rig.nowMs);
  rig.run();
  assert.deepEqual(rig.server.sent, ['0:3'], 'what the guest waits for has room always');
  rig.isFull = false;
  rig.fetcher.tick(rig.nowMs);
  assert.equal(rig.fetcher.wakeAtMs(rig.nowMs), rig.nowMs + SILENT_MS, 'the window is full');
  rig.run();
  assert.ok(rig.fetcher.isComplete);
});

test('Fetcher goes on in another session with what it lacks, what the guest waits for first', () => {
  const rig = new Rig();
  rig.run(8);
  const sent = new Set(rig.server.sent);
  assert.ok(sent.size > 0 && sent.size < CONTENT_PAGES);
  const arrived = new Set(rig.stored.keys());
  rig.lose();
  rig.fetcher.demand(1, 19, rig.nowMs);
  rig.server = new Server();
  rig.fetcher.beginSession(rig.nowMs);
  rig.run();
  assert.equal(rig.server.sent[0], '1:19');
  assert.equal(rig.server.sent.length, CONTENT_PAGES - arrived.size);
  assert.ok(rig.fetcher.isComplete);
  assert.deepEqual([rig.fetcher.info().sessions, rig.resumptions], [2, 1]);
});

test('Fetcher refuses a server that has another snapshot', () => {
  const rig = new Rig();
  rig.run(8);
  rig.lose();
  rig.server = new Server(
    writeDeviceSection({
      sectionId: 7,
      idstr: 'rig',
      instanceId: 0,
      versionId: 1,
      body: Uint8Array.of(1, 2, 4),
    }),
  );
  rig.fetcher.beginSession(rig.nowMs);
  assert.throws(() => rig.run(), /The server has another snapshot now/);
});

test('Fetcher refuses what is no server of snapshots, whatever it says', () => {
  for (const bytes of [
    Buffer.from('SSH-2.0-OpenSSH_9.2\r\n'),
    Buffer.from('QEVM\x00\x00\x00\x02'),
    Buffer.alloc(64),
  ]) {
    const rig = new Rig();
    rig.fetcher.free().set(bytes);
    assert.throws(() => rig.fetcher.received(bytes.length, 0), StreamError);
  }
});

test('Fetcher refuses a page that it did not ask for', () => {
  const rig = new Rig();
  rig.isFull = true;
  rig.run();
  rig.fetcher.demand(0, 0, rig.nowMs);
  rig.run();
  assert.equal(rig.stored.size, 1);
  // The PART that brought it once more.
  const part = Buffer.concat([
    Buffer.from('0200000002', 'hex'),
    Buffer.from('0000000000000008', 'hex'),
    Buffer.from('\x06pc.ram', 'latin1'),
    Buffer.alloc(TARGET_PAGE_BYTES),
  ]);
  rig.fetcher.free().set(part);
  assert.throws(
    () => rig.fetcher.received(part.length, 0),
    /The server sends page 0 of "pc.ram", which was not asked for/,
  );
});

test('Fetcher asks for nothing that is in the cache', () => {
  const rig = new Rig({ here: (block) => block === 0 });
  rig.run();
  assert.deepEqual(new Set(rig.server.sent.map((name) => name[0])), new Set(['1']));
  assert.equal(rig.fetcher.info()['cached-pages'], CONTENT_PAGES - 20);
  const all = new Rig({ here: () => true });
  all.run();
  assert.deepEqual(all.server.sent, []);
  assert.ok(all.fetcher.isComplete);
});

test('Fetcher waits for what other processes bring, and asks for it when they do not', () => {
  const present = BLOCKS.map(({ lengthBytes }) => PageBitmap.shared(lengthBytes / TARGET_PAGE_BYTES));
  const others = new Set(Array.from({ length: 20 }, (_, page) => page));
  const claims: PageClaims = {
    claim: (block, page) => block === 0 || !others.has(page),
    release: () => {},
    isAbandoned: () => false,
    takeOver: (_, page) => others.delete(page),
  };
  const rig = new Rig({ claims, present });
  rig.run();
  assert.equal(rig.fetcher.remainingPages, 20);
  rig.fetcher.demand(1, 4, rig.nowMs);
  rig.fetcher.demand(1, 5, rig.nowMs);
  for (const page of [3, 4]) present[1]?.setShared(page);
  const wakeAtMs = rig.fetcher.wakeAtMs(rig.nowMs);
  assert.ok(wakeAtMs <= rig.nowMs + 1 && Number.isFinite(wakeAtMs));
  rig.nowMs += 20;
  rig.fetcher.tick(rig.nowMs);
  assert.equal(rig.fetcher.remainingPages, 18);
  assert.equal(rig.fetcher.info()['shared-pages'], 2);
  rig.nowMs += 2000;
  rig.fetcher.tick(rig.nowMs);
  rig.run();
  assert.equal(rig.server.sent.at(-1), '1:5', 'the guest does not wait for ever');
  assert.equal(rig.fetcher.remainingPages, 17);
  for (let step = 0; step < 60; step++) {
    rig.nowMs += 250;
    rig.run();
  }
  assert.ok(rig.fetcher.isComplete, 'nor does anyone else');
});
