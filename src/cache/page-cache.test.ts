import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { tempFolder } from '../../test/support/temp-folder.ts';
import { until } from '../../test/support/until.ts';
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import { CacheError } from './cache-error.ts';
import { defaultCacheFolder } from './cache-folder.ts';
import { cacheLayout } from './cache-layout.ts';
import { PageCache } from './page-cache.ts';

const DIGEST = '0123456789abcdef'.repeat(4);
const BOOT = '11111111-2222-3333-4444-555555555555';
const OTHER_BOOT = '99999999-2222-3333-4444-555555555555';
const BLOCKS = [
  { idstr: 'pc.ram', lengthBytes: 100 * TARGET_PAGE_BYTES, pageSizeBytes: TARGET_PAGE_BYTES },
  { idstr: 'rom', lengthBytes: 5 * TARGET_PAGE_BYTES, pageSizeBytes: TARGET_PAGE_BYTES },
];

function open(t: TestContext, folder: string, bootId = BOOT): PageCache {
  const cache = PageCache.open({ folder, digest: DIGEST, blocks: BLOCKS, bootId });
  t.after(() => cache.close());
  return cache;
}

/** A process that dies: its files close, and nothing else happens. */
function die(cache: PageCache): void {
  const { claims } = cache;
  Object.assign(claims, { releaseAll: () => assert.fail('the process is dead') });
  cache.close();
}

function put(cache: PageCache, block: number, page: number): void {
  const at = (cache.layout.blocks[block]?.pagesAt ?? 0) + page * TARGET_PAGE_BYTES;
  writeSync(cache.pagesFd, Buffer.alloc(TARGET_PAGE_BYTES, page + 1), 0, TARGET_PAGE_BYTES, at);
  cache.present[block]?.setShared(page);
}

test('cacheLayout() gives every page a place of its own', () => {
  const layout = cacheLayout(BLOCKS);
  assert.equal(layout.pages, 105);
  assert.equal(layout.pagesFileBytes, 106 * TARGET_PAGE_BYTES);
  assert.deepEqual(
    layout.blocks.map(({ firstPage, pagesAt, presentAt, presentWords }) => [
      firstPage,
      pagesAt,
      presentAt,
      presentWords,
    ]),
    [
      [0, 4096, 4096, 4],
      [100, 4096 + 100 * 4096, 4096 + 16, 1],
    ],
  );
  assert.deepEqual([layout.claimsAt, layout.stateFileBytes], [8192, 12288]);
});

test('defaultCacheFolder() follows the XDG specification', () => {
  assert.equal(defaultCacheFolder({ XDG_CACHE_HOME: '/x' }), '/x/postcopy');
  assert.match(defaultCacheFolder({ XDG_CACHE_HOME: 'relative' }), /^\/.*\/\.cache\/postcopy$/);
  assert.match(defaultCacheFolder({}), /\/\.cache\/postcopy$/);
});

test('PageCache keeps pages for whoever opens it next, and its files to their owner', (t) => {
  const folder = join(tempFolder(t), 'deep', 'cache');
  const cache = open(t, folder);
  assert.equal(statSync(folder).mode & 0o777, 0o700);
  for (const path of [cache.pagesPath, cache.statePath]) assert.equal(statSync(path).mode & 0o777, 0o600);
  put(cache, 0, 7);
  put(cache, 1, 4);
  cache.close();
  cache.close();
  const next = open(t, folder, OTHER_BOOT);
  assert.deepEqual(
    [next.present[0]?.count(), next.present[1]?.count()],
    [1, 1],
    'it was closed, so the boot does not matter',
  );
  assert.ok(next.present[0]?.isSet(7) && next.present[1]?.isSet(4));
  const at = (next.layout.blocks[1]?.pagesAt ?? 0) + 4 * TARGET_PAGE_BYTES;
  assert.equal(readFileSync(next.pagesPath)[at], 5);
});

test('PageCache trusts bits that were not made safe only in the boot in which they were set', (t) => {
  const folder = tempFolder(t);
  const cache = open(t, folder);
  put(cache, 0, 7);
  die(cache);
  const same = open(t, folder);
  assert.ok(same.present[0]?.isSet(7), 'the process died, not the host');
  die(same);
  const other = open(t, folder, OTHER_BOOT);
  assert.equal(other.present[0]?.count(), 0);
  put(other, 0, 8);
  other.close();
  assert.ok(open(t, folder, BOOT).present[0]?.isSet(8));
});

test('PageCache is shared by those who have it open, and the last one makes it safe', (t) => {
  const folder = tempFolder(t);
  const [one, other] = [open(t, folder), open(t, folder)];
  put(one, 0, 3);
  assert.ok(other.present[0]?.isSet(3));
  assert.equal(one.claims.claim(0, 50), true);
  assert.equal(other.claims.claim(0, 50), false);
  assert.equal(other.claims.isAbandoned(0, 50), false);
  assert.equal(other.claims.claim(0, 3), false, 'it is there');
  assert.equal(other.claims.claim(1, 0), true);
  one.claims.release(0, 50);
  assert.equal(other.claims.isAbandoned(0, 50), true);
  assert.equal(other.claims.takeOver(0, 50), true);
  assert.equal(one.claims.claim(0, 50), false);
  one.close();
  die(other);
  const next = open(t, folder, OTHER_BOOT);
  assert.equal(next.present[0]?.count(), 0, 'the first to close was not the last');
});

test('PageCache takes back what a dead process has claimed', async (t) => {
  const folder = tempFolder(t);
  const cache = open(t, folder);
  const code = `
    import { PageCache } from ${JSON.stringify(new URL('./page-cache.js', import.meta.url).href)};
    const options = ${JSON.stringify({ folder, digest: DIGEST, blocks: BLOCKS, bootId: BOOT })};
    const cache = PageCache.open(options);
    cache.claims.claim(0, 9);
    console.log('claimed');
    setInterval(() => cache, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', code], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.after(() => child.kill('SIGKILL'));
  await once(child.stdout as NodeJS.ReadableStream, 'data');
  assert.equal(cache.claims.claim(0, 9), false);
  assert.equal(cache.claims.isAbandoned(0, 9), false);
  child.kill('SIGKILL');
  await once(child, 'exit');
  await until('the claim to be abandoned', () => cache.claims.isAbandoned(0, 9));
  assert.equal(cache.claims.takeOver(0, 9), true);
});

test('CacheClaims gives every page to one of many processes', async (t) => {
  const folder = tempFolder(t);
  const pages = 200_000;
  const blocks = [{ idstr: 'ram', lengthBytes: pages * TARGET_PAGE_BYTES, pageSizeBytes: TARGET_PAGE_BYTES }];
  const code = `
    import { PageCache } from ${JSON.stringify(new URL('./page-cache.js', import.meta.url).href)};
    const cache = PageCache.open(${JSON.stringify({ folder, digest: DIGEST, blocks, bootId: BOOT })});
    let claimed = 0;
    for (let page = 0; page < ${pages}; page++) if (cache.claims.claim(0, page)) {
      claimed++;
      cache.present[0].setShared(page);
    }
    console.log(claimed);`;
  // The first user stays, so that the bits of all are seen.
  const cache = PageCache.open({ folder, digest: DIGEST, blocks, bootId: BOOT });
  t.after(() => cache.close());
  const counts = await Promise.all(
    [1, 2, 3].map(async () => {
      const child = spawn(process.execPath, ['--input-type=module', '-e', code], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const [text] = await once(child.stdout as NodeJS.ReadableStream, 'data');
      await once(child, 'exit');
      return Number(String(text));
    }),
  );
  assert.equal(
    counts.reduce((sum, count) => sum + count, 0),
    pages,
    counts.join(' '),
  );
  assert.equal(cache.present[0]?.count(), pages);
});

test('PageCache makes files anew that are not what they should be', (t) => {
  const damages: Record<string, (paths: { state: string; pages: string }) => void> = {
    'no state file': ({ state }) => writeFileSync(state, 'hello'),
    'an empty state file': ({ state }) => truncateSync(state, 0),
    'a state file cut short': ({ state }) => truncateSync(state, 8192),
    'another version': ({ state }) => {
      const bytes = readFileSync(state);
      bytes[8] = 9;
      writeFileSync(state, bytes);
    },
    'no pages file': ({ pages }) => rmSync(pages),
    'a pages file cut short': ({ pages }) => truncateSync(pages, 8192),
    'pages of another state': ({ pages }) => {
      const bytes = readFileSync(pages);
      bytes[20] = (bytes[20] ?? 0) ^ 1;
      writeFileSync(pages, bytes);
    },
  };
  for (const [what, damage] of Object.entries(damages)) {
    const folder = tempFolder(t);
    const cache = open(t, folder);
    put(cache, 0, 7);
    cache.close();
    damage({ state: cache.statePath, pages: cache.pagesPath });
    const next = open(t, folder);
    assert.equal(next.present[0]?.count(), 0, what);
    assert.equal(statSync(next.pagesPath).size, next.layout.pagesFileBytes, what);
    put(next, 0, 8);
    next.close();
    assert.ok(open(t, folder).present[0]?.isSet(8), what);
  }
});

test('PageCache refuses to touch damaged files that somebody uses', (t) => {
  const folder = tempFolder(t);
  const cache = open(t, folder);
  truncateSync(cache.pagesPath, 4096);
  assert.throws(
    () => open(t, folder),
    (error) => error instanceof CacheError && /does not belong to it/.test(error.message),
  );
});

test('PageCache refuses files that another host uses', (t) => {
  const folder = tempFolder(t);
  open(t, folder);
  assert.throws(() => open(t, folder, OTHER_BOOT), /cannot be used: another host uses it/);
});

test('PageCache refuses folders that others can write, links, and what is no folder', (t) => {
  const folder = tempFolder(t);
  const open700 = join(folder, 'a');
  mkdirSync(open700);
  chmodSync(open700, 0o777);
  assert.throws(() => open(t, open700), /others can write to it/);
  writeFileSync(join(folder, 'file'), '');
  assert.throws(() => open(t, join(folder, 'file', 'x')), CacheError);
  const target = join(folder, 'target');
  writeFileSync(target, 'precious');
  symlinkSync(target, join(folder, `${DIGEST}.state`));
  assert.throws(() => open(t, folder), CacheError);
  assert.equal(readFileSync(target, 'latin1'), 'precious');
});
