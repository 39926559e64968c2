import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PageBitmap } from '../memory/page-bitmap.ts';
import { DirtyPages } from './dirty-pages.ts';
import type { DirtyTracker, SourceMemory } from './source-ports.ts';

const BLOCKS = [
  { idstr: 'pc.ram', lengthBytes: 40 * 4096, pageSizeBytes: 4096 },
  { idstr: 'rom', lengthBytes: 2 * 4096, pageSizeBytes: 4096 },
];

/** @param options.touched pages of the first block that may hold something; all that is read is not zero */
function rig(options: { touched?: number[] } = {}) {
  const read: number[] = [];
  const written: [number, number][] = [];
  let stops = 0;
  const memory: SourceMemory = {
    blocks: BLOCKS,
    copyPage: () => assert.fail('not copied here'),
    isZeroPage: (_, offset) => {
      read.push(offset / 4096);
      return false;
    },
  };
  const tracker: DirtyTracker = {
    start: (touched) => {
      for (const page of options.touched ?? []) touched[0]?.set(page);
    },
    sync: (dirty) => {
      for (const [block, page] of written.splice(0)) dirty[block]?.set(page);
    },
    stop: () => {
      stops++;
    },
  };
  const dirty = BLOCKS.map(({ lengthBytes }) => new PageBitmap(lengthBytes / 4096));
  const pages = new DirtyPages(memory, tracker, dirty);
  return { pages, dirty, read, written, stops: () => stops };
}

/** Sends everything from the cursor to the end of the pass. */
function sendAll(pages: DirtyPages): string[] {
  const sent: string[] = [];
  while (pages.seek()) {
    sent.push(`${pages.cursor.block}:${pages.cursor.page}`);
    pages.markSent(pages.cursor.block, pages.cursor.page);
  }
  return sent;
}

test('DirtyPages begins with every page dirty', () => {
  const { pages, dirty } = rig();
  assert.equal(pages.count, 0);
  pages.start();
  assert.equal(pages.count, 42);
  assert.equal(pages.remainingBytes, 42 * 4096);
  assert.equal(pages.nextDirty(1, 1), 1);
  assert.equal(dirty[0]?.count(), 40, 'in the bitmaps it was given');
});

test('DirtyPages seeks through all blocks, ends the pass, and begins again where it is moved', () => {
  const { pages, written } = rig();
  pages.start();
  const sent = sendAll(pages);
  assert.equal(sent.length, 42);
  assert.deepEqual([sent[0], sent[39], sent[40], sent[41]], ['0:0', '0:39', '1:0', '1:1']);
  assert.equal(pages.count, 0);
  assert.equal(pages.cursor.block, 2);

  written.push([0, 3], [0, 33], [1, 1]);
  assert.equal(pages.sync(), 3);
  assert.deepEqual(sendAll(pages), [], 'the pass is over until it is moved');
  pages.moveTo(0, 4);
  assert.deepEqual(sendAll(pages), ['0:33', '1:1']);
  pages.moveTo();
  assert.deepEqual(sendAll(pages), ['0:3']);
});

test('DirtyPages.moveTo() may stand behind the last page of a block', () => {
  const { pages } = rig();
  pages.start();
  pages.moveTo(0, 40);
  assert.ok(pages.seek());
  assert.deepEqual(pages.cursor, { block: 1, page: 0 });
});

test('DirtyPages.sync() counts what is fresh, also when it was dirty before', () => {
  const { pages, written } = rig();
  pages.start();
  written.push([0, 1]);
  assert.equal(pages.sync(), 1);
  assert.equal(pages.count, 42);
  assert.equal(pages.sync(), 0);
});

test('DirtyPages.isZero() reads only pages that may hold something', () => {
  const { pages, read, written } = rig({ touched: [5] });
  pages.start();
  assert.equal(pages.isZero(0, 4), true);
  assert.deepEqual(read, []);
  assert.equal(pages.isZero(0, 5), false);
  written.push([0, 4]);
  assert.equal(pages.isZero(0, 4), true, 'until the write is known');
  pages.sync();
  assert.equal(pages.isZero(0, 4), false);
  assert.deepEqual(read, [5, 4]);
});

test('DirtyPages.forEachDirtyRun() gives maximal runs, block by block', () => {
  const { pages, written } = rig();
  pages.start();
  sendAll(pages);
  written.push([0, 31], [0, 32], [0, 39], [1, 0]);
  pages.sync();
  const runs: number[][] = [];
  pages.forEachDirtyRun((...run) => runs.push(run));
  assert.deepEqual(runs, [
    [0, 31, 2],
    [0, 39, 1],
    [1, 0, 1],
  ]);
});

test('DirtyPages.stop() ends tracking', () => {
  const { pages, stops } = rig();
  pages.start();
  pages.stop();
  pages.stop();
  assert.equal(stops(), 2, 'a tracker takes it twice');
});
