/**
 * The memory that a snapshot holds, read back from its file.
 */
import assert from 'node:assert/strict';
import { readSync } from 'node:fs';
import type { TestContext } from 'node:test';
import { TARGET_PAGE_BYTES } from '../../src/memory/ram-block.ts';
import { openSnapshot } from '../../src/snapshot/open-snapshot.ts';
import type { Snapshot } from '../../src/snapshot/snapshot.ts';
import { atEnd } from './cleanup.ts';

/** Opens a snapshot until the test ends. */
export function openForTest(t: TestContext, path: string, offset = 0): Snapshot {
  const snapshot = openSnapshot(path, { offset });
  atEnd(t, () => snapshot.close());
  return snapshot;
}

/** A block as it was, its zero pages included. */
export function memoryOf({ fd, blocks }: Snapshot, index: number): Buffer {
  const { hasContent, fileOffsetOf, lengthBytes } = blocks[index]!;
  const content = Buffer.alloc(lengthBytes);
  hasContent.forEachRun((first, count) => {
    for (let page = first; page < first + count; page++) {
      const at = page * TARGET_PAGE_BYTES;
      assert.equal(readSync(fd, content, at, TARGET_PAGE_BYTES, fileOffsetOf(page)), TARGET_PAGE_BYTES);
    }
  });
  return content;
}
