/** Files that may come from anywhere, or be left by something else: snapshots, their indexes, the page cache. */
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PageCache } from '../../../src/cache/page-cache.ts';
import { mapAnonymous } from '../../../src/linux/memory.ts';
import { readTouchOrder, writeTouchOrder } from '../../../src/restore/touch-order.ts';
import { BLOCKS, streamOf } from '../../../src/snapshot/example-file.ts';
import { decodeIndex, encodeIndex, type IndexedStream } from '../../../src/snapshot/index-file.ts';
import { openSnapshot } from '../../../src/snapshot/open-snapshot.ts';
import { SnapshotReceiver } from '../../../src/snapshot/snapshot-receiver.ts';
import { MIN_STREAM_BUFFER_BYTES } from '../../../src/wire/stream-decoder.ts';
import { type Piece, PieceWriter, rawPiece } from '../piece.ts';
import { splitStream } from '../split-stream.ts';
import { BrokenPromise, digest, feed, type Run, type Target } from '../target.ts';
import { capturedPrecopy, deltas, examplePostcopy, mappedRam, once } from './seeds.ts';

const MIB = 2 ** 20;

const folder = once(() => {
  const path = mkdtempSync(join(tmpdir(), 'fuzz-'));
  process.on('exit', () => rmSync(path, { recursive: true, force: true }));
  return path;
});

const exampleStream = once(() =>
  splitStream(
    streamOf(
      [
        [0, 1, 7],
        [0, 2, 0],
        [1, 0, 9],
      ],
      [[0, 1, 8]],
    ),
  ),
);

/** Whatever was accepted can be opened, and holds what it says. */
function describe(path: string): string {
  const snapshot = openSnapshot(path);
  try {
    const pages = snapshot.blocks.map((block) => {
      const { idstr, lengthBytes } = block;
      return `${idstr} ${lengthBytes}`;
    });
    return `${snapshot.machineType} ${snapshot.ramSectionId} ${pages} ${digest(snapshot.deviceSections)}`;
  } finally {
    snapshot.close();
  }
}

const receiveBuffer = once(() => mapAnonymous(4 * MIN_STREAM_BUFFER_BYTES).bytes);

function receive(run: Run): void {
  const path = join(folder(), 'received');
  const receiver = new SnapshotReceiver({
    path,
    overwrite: true,
    buffer: receiveBuffer(),
    hasReturnPath: true,
    sendReturnPath: (message) => run.say(`answer ${message.length}`),
  });
  try {
    feed(run.bytes, run, {
      free: () => receiver.free(),
      received: (countBytes) => {
        receiver.received(countBytes);
        return true;
      },
    });
    receiver.ended();
    const contents = receiver.finish();
    run.say(JSON.stringify(contents));
  } finally {
    receiver.abandon();
  }
  try {
    run.say(describe(path));
  } catch (error) {
    throw new BrokenPromise(`what was saved cannot be opened: ${(error as Error).message}`);
  }
}

const indexed = once((): { pieces: readonly Piece[]; size: bigint } => {
  const stream: IndexedStream = {
    offset: 0,
    machineType: 'pc-1',
    uuid: undefined,
    ramSectionId: 2,
    blocks: BLOCKS.map((block) => ({
      ...block,
      contentWords: Int32Array.from({ length: Math.ceil(block.lengthBytes / 4096 / 32) }, () => 3),
      offsets: Float64Array.from({ length: block.lengthBytes / 4096 }, (_, page) => page * 8),
    })),
    deviceSections: { offset: 10, lengthBytes: 20 },
    vmDescription: { offset: 30, lengthBytes: 5 },
  };
  const bytes = Buffer.from(encodeIndex({ size: 1_000_000n, mtimeNs: 5n }, stream));
  const jsonBytes = bytes.readUInt32LE(24);
  const json = bytes.toString('utf8', 28, 28 + jsonBytes);
  const head = new PieceWriter().raw(bytes.subarray(0, 24)).number(jsonBytes, 4).piece('head');
  const tokens = json.match(/[{}[\]:,]|"[^"]*"|[^{}[\]:,"]+/g) ?? [];
  const tables = [];
  for (let at = 28 + jsonBytes; at < bytes.length - 32; at += 4)
    tables.push(new PieceWriter().number(bytes.readUInt32BE(at), 4).piece('word'));
  return {
    size: 1_000_000n,
    pieces: [head, ...tokens.map((token) => rawPiece('token', Buffer.from(token))), ...tables],
  };
});

/** Puts lengths and checksum right, so that what is behind them is looked at. */
function mendIndex(pieces: readonly Piece[]): readonly Piece[] {
  const parts = pieces.map(({ bytes }) => bytes);
  const jsonBytes = pieces.reduce((sum, { kind, bytes }) => sum + (kind === 'token' ? bytes.length : 0), 0);
  const whole = Buffer.concat(parts);
  if (whole.length >= 28) whole.writeUInt32LE(jsonBytes, 24);
  return [rawPiece('index', Buffer.concat([whole, createHash('sha256').update(whole).digest()]))];
}

function readIndex(run: Run): void {
  const stream = decodeIndex(Buffer.from(run.bytes), { size: indexed().size, mtimeNs: 5n });
  if (stream === undefined) {
    run.say('none');
    return;
  }
  for (const { idstr, lengthBytes, contentWords, offsets } of stream.blocks) {
    if (contentWords.length !== Math.ceil(lengthBytes / 4096 / 32))
      throw new BrokenPromise('a bitmap of another size');
    run.say(`${idstr} ${lengthBytes} ${typeof offsets}`);
  }
}

const CACHE_DIGEST = 'ab'.repeat(32);
const CACHE_BOOT = '11111111-2222-3333-4444-555555555555';

function cacheState(): readonly Piece[] {
  const header = new PieceWriter().raw('postcopy');
  for (const value of [0x0100_0000, 0x0100_0000]) header.number(value, 4);
  header.raw(new Uint8Array(16)).raw(CACHE_BOOT).raw(CACHE_DIGEST).number(0x5300_0000_0000_0000n, 8);
  return [
    header.piece('header'),
    rawPiece('padding', new Uint8Array(4096 - 140)),
    new PieceWriter()
      .number(0x0f00_0000, 4)
      .number(0, 4)
      .number(1, 4)
      .number(0xffff_ffffn, 4)
      .piece('present'),
    rawPiece('rest', new Uint8Array(4096 - 16)),
    rawPiece('claims', new Uint8Array(4096).fill(1)),
  ];
}

function openCache(run: Run): void {
  const path = mkdtempSync(join(folder(), 'cache-'));
  try {
    const pages = Buffer.alloc(4096 * (1 + 83));
    pages.write('postcopy', 'latin1');
    writeFileSync(join(path, `${CACHE_DIGEST}.pages`), pages, { mode: 0o600 });
    writeFileSync(join(path, `${CACHE_DIGEST}.state`), run.bytes, { mode: 0o600 });
    const cache = PageCache.open({ folder: path, digest: CACHE_DIGEST, blocks: BLOCKS, bootId: CACHE_BOOT });
    try {
      cache.present.forEach((bitmap) => {
        if (bitmap.count() > bitmap.pageCount) throw new BrokenPromise('more pages than there are');
        for (let page = 0; page < bitmap.pageCount; page++) cache.claims.claim(0, page);
      });
      run.say(`open ${cache.present.map((bitmap) => bitmap.count())}`);
    } finally {
      cache.close();
    }
  } finally {
    rmSync(path, { recursive: true, force: true });
  }
}

const MACHINE = { machineType: 'pc-1', blocks: BLOCKS };

const orderPieces = once(() => {
  const path = join(folder(), 'order');
  writeTouchOrder(path, MACHINE, { requests: 3, runs: [{ block: 0, firstPage: 1, pageCount: 2 }] });
  const text =
    '{"touch-order":1,"machine-type":"pc-1","blocks":[{"idstr":"pc.ram","length":327680},{"idstr":"rom","length":12288}],"requests":3,"runs":[[0,1,2],[1,0,1]]}';
  return (text.match(/[{}[\]:,]|"[^"]*"|[^{}[\]:,"]+/g) ?? []).map((token) =>
    rawPiece('token', Buffer.from(token)),
  );
});

export const FILE_TARGETS: readonly Target[] = [
  {
    name: 'snapshot-receiver',
    seeds: once(() => [exampleStream(), capturedPrecopy()]),
    donors: () => [...examplePostcopy(), ...deltas(), ...mappedRam()],
    refusals: ['StreamError'],
    // Two bits for each page of 16 TiB.
    largestBytes: (bytes) => 514 * MIB + 4 * bytes,
    allocatedBytes: (bytes) => 1100 * MIB + 64 * bytes,
    run: receive,
  },
  {
    name: 'open-snapshot',
    seeds: once(() => [exampleStream(), mappedRam(), capturedPrecopy()]),
    donors: examplePostcopy,
    refusals: ['SnapshotError'],
    largestBytes: (bytes) => 1200 * MIB + 4 * bytes,
    allocatedBytes: (bytes) => 2400 * MIB + 64 * bytes,
    run: (run) => {
      const path = join(folder(), 'snapshot');
      rmSync(`${path}.index`, { force: true });
      writeFileSync(path, run.bytes);
      const first = describe(path);
      if (describe(path) !== first) throw new BrokenPromise('with its index it is another');
      run.say(first);
    },
  },
  {
    name: 'stream-index',
    seeds: once(() => [[rawPiece('index', mendIndex(indexed().pieces)[0]?.bytes as Uint8Array)]]),
    refusals: [],
    largestBytes: (bytes) => MIB + 64 * bytes,
    allocatedBytes: (bytes) => 4 * MIB + 256 * bytes,
    run: readIndex,
  },
  {
    name: 'mended-stream-index',
    seeds: once(() => [indexed().pieces]),
    mend: mendIndex,
    refusals: [],
    largestBytes: (bytes) => MIB + 64 * bytes,
    allocatedBytes: (bytes) => 4 * MIB + 256 * bytes,
    run: readIndex,
  },
  {
    name: 'page-cache',
    seeds: once(() => [cacheState()]),
    refusals: ['CacheError'],
    largestBytes: (bytes) => 2 * MIB + bytes,
    allocatedBytes: (bytes) => 8 * MIB + 4 * bytes,
    run: openCache,
  },
  {
    name: 'touch-order',
    seeds: once(() => [orderPieces()]),
    refusals: ['TouchOrderError'],
    largestBytes: (bytes) => MIB + 4 * bytes,
    allocatedBytes: (bytes) => 4 * MIB + 64 * bytes,
    run: (run) => {
      const path = join(folder(), 'order');
      writeFileSync(path, run.bytes);
      const order = readTouchOrder(path, MACHINE);
      for (const { block, firstPage, pageCount } of order?.runs ?? []) {
        const pages = (BLOCKS[block]?.lengthBytes ?? 0) / 4096;
        if (firstPage + pageCount > pages)
          throw new BrokenPromise(`pages up to ${firstPage + pageCount} of ${pages}`);
      }
      run.say(JSON.stringify(order));
    },
  },
];
