import assert from 'node:assert/strict';
import { closeSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { atEnd } from '../../test/support/cleanup.ts';
import { mountSmallDisk } from '../../test/support/small-disk.ts';
import { tempFolder } from '../../test/support/temp-folder.ts';
import { cacheLayout } from '../cache/cache-layout.ts';
import { PageCache } from '../cache/page-cache.ts';
import { createMemoryFile } from '../linux/file-io.ts';
import { mapAnonymous } from '../linux/memory.ts';
import { createEventfd } from '../linux/poll.ts';
import { PageBitmap } from '../memory/page-bitmap.ts';
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import { openBlock } from '../snapshot/snapshot.ts';
import { CacheStore } from './fetch-store.ts';
import { FetchedMemory } from './fetched-memory.ts';
import { allocateFetchedPages, type FetchedPagesData, TakenWord } from './fetched-pages.ts';

const PAGES = 6000;
const BLOCKS = [
  { idstr: 'pc.ram', lengthBytes: PAGES * TARGET_PAGE_BYTES, pageSizeBytes: TARGET_PAGE_BYTES },
  { idstr: 'rom', lengthBytes: 8 * TARGET_PAGE_BYTES, pageSizeBytes: TARGET_PAGE_BYTES },
];

interface Rig {
  readonly store: CacheStore;
  readonly memory: FetchedMemory;
  readonly data: FetchedPagesData;
  readonly cache: PageCache | undefined;
  readonly told: string[];
  /** Pages as they come: content n at page n. */
  bring(block: number, pages: readonly number[]): void;
  /** First byte of a page, as it is sent on. */
  read(block: number, page: number): number;
}

/** Every page has content but the last. @param folder of the cache; undefined for none */
function makeRig(t: TestContext, folder: string | undefined): Rig {
  const content = BLOCKS.map(({ lengthBytes }) => PageBitmap.shared(lengthBytes / TARGET_PAGE_BYTES));
  for (const bitmap of content) bitmap.setRange(0, bitmap.pageCount - 1);
  const cache =
    folder === undefined ? undefined : PageCache.open({ folder, digest: 'a'.repeat(64), blocks: BLOCKS });
  const overflowFd = createMemoryFile('test');
  const fetcherWakeFd = createEventfd();
  const data = {
    pagesFd: cache?.pagesFd ?? overflowFd,
    ...{ overflowFd, fetcherWakeFd, ...allocateFetchedPages(BLOCKS, content) },
  };
  const buffer = mapAnonymous(64 * TARGET_PAGE_BYTES);
  const told: string[] = [];
  const store = new CacheStore(cache, BLOCKS, data, buffer.address, (error) => told.push(error.message));
  const layout = cacheLayout(BLOCKS);
  const blocks = BLOCKS.map((block, index) =>
    openBlock({
      ...block,
      contentWords: (content[index] as PageBitmap).words,
      offsets: layout.blocks[index]?.pagesAt as number,
    }),
  );
  const memory = new FetchedMemory(data, blocks);
  atEnd(t, () => {
    cache?.close();
    memory.close();
    closeSync(overflowFd);
    closeSync(fetcherWakeFd);
    buffer.unmap();
  });
  const target = new Uint8Array(TARGET_PAGE_BYTES);
  return {
    ...{ store, memory, data, cache, told },
    bring: (block, pages) => {
      for (let first = 0; first < pages.length; first += 64) {
        const some = pages.slice(first, first + 64);
        // In the buffer they stand in another order than in the file.
        some.forEach((page, index) => {
          const position = (63 - index) * TARGET_PAGE_BYTES;
          buffer.bytes.fill((page % 250) + 1, position, position + TARGET_PAGE_BYTES);
          store.writePage(block, page, position);
        });
        store.flush();
        for (const page of some) store.available[block]?.setShared(page);
      }
    },
    read: (block, page) => {
      memory.copyPage(block, page * TARGET_PAGE_BYTES, target, 0);
      assert.ok(
        target.every((byte) => byte === target[0]),
        `page ${page} is whole`,
      );
      return target[0] as number;
    },
  };
}

const range = (first: number, end: number) =>
  Array.from({ length: end - first }, (_, index) => first + index);

test('CacheStore puts pages into the cache, where they are read ahead only as far as they are', (t) => {
  const rig = makeRig(t, tempFolder(t));
  assert.deepEqual(
    [rig.memory.isZeroPage(0, (PAGES - 1) * TARGET_PAGE_BYTES), rig.memory.isZeroPage(0, 0)],
    [true, false],
  );
  rig.bring(0, range(0, 10));
  rig.bring(1, [3]);
  for (let page = 0; page < 10; page++) assert.equal(rig.read(0, page), page + 1);
  assert.equal(rig.read(1, 3), 4);
  assert.equal(rig.cache?.present[0]?.count(), 10);
  // What comes behind what was read ahead must not be taken for what was there.
  assert.equal(rig.read(0, 8), 9);
  assert.equal(rig.read(0, 9), 10);
  rig.bring(0, range(10, 200));
  for (let page = 10; page < 200; page++) assert.equal(rig.read(0, page), page + 1);
  assert.deepEqual(rig.told, []);
});

test('CacheStore writes a page of zeros', (t) => {
  const rig = makeRig(t, tempFolder(t));
  rig.bring(0, [5]);
  rig.store.writePage(0, 6, -1);
  rig.store.flush();
  rig.store.available[0]?.setShared(6);
  assert.equal(rig.read(0, 6), 0);
});

test('CacheStore without a cache keeps pages in memory until they are sent on, and only so many', (t) => {
  const rig = makeRig(t, undefined);
  assert.equal(rig.store.present, undefined);
  rig.bring(0, range(0, 4095));
  assert.equal(rig.store.isFull, false);
  rig.bring(0, [4095]);
  assert.equal(rig.store.isFull, true);
  assert.equal(Atomics.load(rig.data.taken, TakenWord.IS_AWAITED), 1);
  for (const page of [0, 1, 4000]) assert.equal(rig.read(0, page), (page % 250) + 1);
  assert.equal(Atomics.load(rig.data.taken, TakenWord.IS_AWAITED), 0, 'who waits was woken');
  const woken = Buffer.alloc(8);
  assert.equal(readSync(rig.data.fetcherWakeFd, woken), 8);
  assert.equal(woken.readBigUInt64LE(), 1n, 'once');
  assert.equal(rig.store.isFull, false);
  const hole = Buffer.alloc(1);
  readSync(
    rig.data.overflowFd,
    hole,
    0,
    1,
    (cacheLayout(BLOCKS).blocks[0]?.pagesAt ?? 0) + TARGET_PAGE_BYTES,
  );
  assert.equal(hole[0], 0, 'its memory is given back');
});

test('CacheStore goes on in memory when the disk is full, and lets others ask', (t) => {
  const disk = join(tempFolder(t), 'disk');
  if (!mountSmallDisk(t, disk, 1)) return;
  const folder = join(disk, 'cache');
  const rig = makeRig(t, folder);
  const other = PageCache.open({ folder, digest: 'a'.repeat(64), blocks: BLOCKS });
  atEnd(t, () => other.close());
  for (const page of range(0, 1000)) assert.ok(rig.store.claims.claim(0, page));
  assert.equal(other.claims.claim(0, 999), false);
  rig.bring(0, range(0, 600));
  assert.equal(rig.told.length, 1);
  assert.match(rig.told[0] ?? '', /ENOSPC/);
  for (const page of range(0, 600)) assert.equal(rig.read(0, page), (page % 250) + 1);
  const present = rig.cache?.present[0]?.count() ?? 0;
  assert.ok(present > 50 && present < 300, `${present} pages are in the cache`);
  assert.equal(other.claims.claim(0, 999), true);
  assert.equal(rig.store.claims.claim(0, 999), true, 'each for itself from now on');
});

test('CacheStore makes nothing known any more once memory has refused a page', (t) => {
  const rig = makeRig(t, undefined);
  const { overflowFd } = rig.data;
  const unwritable = openSync('/dev/null', 'r');
  atEnd(t, () => closeSync(unwritable));
  const refused = { name: 'CacheError', message: /^Pages cannot be kept in memory: .*EBADF/ };
  Object.assign(rig.data, { overflowFd: unwritable });
  assert.throws(() => rig.bring(0, [0]), refused);
  Object.assign(rig.data, { overflowFd });
  // Its content would stand where the one before it was to stand.
  assert.throws(() => rig.bring(0, [1]), refused);
  assert.equal(rig.data.overflowWords[0]?.[0], 0);
});
