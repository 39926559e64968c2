/**
 * Memory dump thread: a worker that writes guest memory to a file, zero pages as holes, and ends.
 *
 * A thread of its own, since it touches pages that may be missing and then waits for them as the guest does.
 */
import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { viewMemory } from '../linux/memory.ts';
import { nameThread } from '../linux/scheduling.ts';
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import { isZeroPage } from '../memory/zero-page.ts';

export interface MemoryDumpData {
  readonly address: bigint;
  readonly lengthBytes: number;
  readonly path: string;
}

/** The thread says that it has loaded, from where on it can be terminated: koffi does not bear that. Then how it went. */
export type MemoryDumpNotice =
  | { readonly kind: 'loaded' }
  | { readonly kind: 'done'; readonly error: string | undefined };

const { address, lengthBytes, path } = workerData as MemoryDumpData;
const notify = (notice: MemoryDumpNotice) => parentPort?.postMessage(notice);
nameThread('memory-dump');
notify({ kind: 'loaded' });
try {
  dump();
  notify({ kind: 'done', error: undefined });
} catch (error) {
  notify({ kind: 'done', error: (error as Error).message });
}

function dump(): void {
  const memory = viewMemory(address, lengthBytes);
  const fd = openSync(path, 'w', 0o600);
  try {
    ftruncateSync(fd, lengthBytes);
    for (let offset = 0; offset < lengthBytes; offset += TARGET_PAGE_BYTES) {
      const isWhole = offset + TARGET_PAGE_BYTES <= lengthBytes;
      if (isWhole && isZeroPage(memory, offset)) continue;
      // A copy, since a write(2) from a page that is missing would fail where faults of user mode only are handled.
      const page = memory.slice(offset, offset + TARGET_PAGE_BYTES);
      writeSync(fd, page, 0, page.length, offset);
    }
  } finally {
    closeSync(fd);
  }
}
