/**
 * Memory of the host that is there at its first touch.
 *
 * A virtual host may give memory that is free back to the host below (free page reporting); the next touch then waits until
 * that finds some, which is slower than any network and has nothing to do with us. Linux gives back what has been free for
 * two seconds, so: take the memory, hold it until whatever was free before has been given back, and free it right before
 * it is used.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Advice, madvise, mapAnonymous } from '../src/linux/memory.ts';
import { TARGET_PAGE_BYTES } from '../src/memory/ram-block.ts';
import { MIB } from './bench.ts';

/** Longer than Linux leaves free memory alone (PAGE_REPORTING_DELAY, 2 s). */
const HOLD_MS = 2500;

/** So little is there without waiting. */
const MIN_BYTES = 128 * MIB;

/** Resolves when so much free memory is backed; it stays so for about two seconds, unless others take it. */
export async function warmHostMemory(lengthBytes: number): Promise<void> {
  if (lengthBytes < MIN_BYTES) return;
  const memory = mapAnonymous(lengthBytes);
  try {
    // Freed in large pieces, it can be taken in large pieces.
    madvise(memory.address, lengthBytes, Advice.HUGEPAGE);
  } catch {
    // A kernel without transparent huge pages.
  }
  for (let at = 0; at < lengthBytes; at += TARGET_PAGE_BYTES) memory.bytes[at] = 1;
  await sleep(HOLD_MS);
  memory.unmap();
}
