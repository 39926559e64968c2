/**
 * A thread that writes all over a range of memory without a pause, and stands still when it is told to: the guest of the
 * dirty tracker's tests.
 *
 * `control[0]` is even while it may write; `control[1]` is set to an odd value of it once it stands still.
 */
import { workerData } from 'node:worker_threads';
import { viewMemory } from '../../src/linux/memory.ts';

export interface WriterData {
  readonly address: bigint;
  readonly lengthBytes: number;
  readonly control: Int32Array;
}

const { address, lengthBytes, control } = workerData as WriterData;
const words = new Uint32Array(viewMemory(address, lengthBytes).buffer);
const pageCount = lengthBytes / 4096;

for (let seed = 1; ; ) {
  for (let write = 0; write < 50; write++) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    words[(seed % pageCount) * 1024]! += 1;
  }
  const turn = Atomics.load(control, 0);
  if (turn % 2 === 0) continue;
  Atomics.store(control, 1, turn);
  Atomics.notify(control, 1);
  Atomics.wait(control, 0, turn);
}
