import assert from 'node:assert/strict';
import { closeSync, ftruncateSync, openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { tempFolder } from '../../test/support/temp-folder.ts';
import { PageBitmap } from '../memory/page-bitmap.ts';
import { openBlock } from '../snapshot/snapshot.ts';
import { FileMemory } from './file-memory.ts';

const PAGE = 4096;
const PAGES = 300;

test('FileMemory gives every page from its place, in whatever order it is asked for', (t) => {
  const { memory, fd, finish } = fileOfPages(t);
  const seen = (page: number) => {
    const target = new Uint8Array(2 * PAGE);
    memory.copyPage(0, page * PAGE, target, PAGE);
    assert.equal(target[0], 0);
    return [target[PAGE], target[2 * PAGE - 1]];
  };
  const expected = (page: number) => [page & 0xff, page & 0xff];
  for (let page = 0; page < PAGES; page++) assert.deepEqual(seen(page), expected(page));
  for (const page of [299, 0, 150, 149, 151, 298, 1]) assert.deepEqual(seen(page), expected(page));
  assert.equal(memory.isZeroPage(0, 4 * PAGE), false);

  ftruncateSync(fd, 100 * PAGE);
  assert.throws(() => seen(280), /ends before the page at byte .*shorter since it was opened/);
  finish();
});

/** Page i is filled with i; pages stand 9 bytes apart, as in a stream. */
function fileOfPages(t: Parameters<typeof tempFolder>[0]) {
  const path = join(tempFolder(t), 'pages');
  const strideBytes = PAGE + 9;
  const bytes = new Uint8Array(PAGES * strideBytes);
  const offsets = new Float64Array(PAGES);
  for (let page = 0; page < PAGES; page++) {
    offsets[page] = page * strideBytes + 9;
    bytes.fill(page, offsets[page], (offsets[page] as number) + PAGE);
  }
  writeFileSync(path, bytes);
  const hasContent = new PageBitmap(PAGES);
  hasContent.setRange(0, PAGES);
  const block = openBlock({
    idstr: 'ram',
    lengthBytes: PAGES * PAGE,
    pageSizeBytes: PAGE,
    contentWords: hasContent.words,
    offsets,
  });
  const fd = openSync(path, 'r+');
  const memory = new FileMemory(fd, path, [block]);
  return {
    memory,
    fd,
    finish: () => {
      memory.close();
      closeSync(fd);
    },
  };
}
