/**
 * A thread that reads one byte of memory and says which it was: the guest of a test about missing pages.
 *
 * `answer[1]` becomes 1 right before it does, `answer[0]` the byte plus one.
 */
import { workerData } from 'node:worker_threads';
import { viewMemory } from '../../src/linux/memory.ts';

export interface PageReaderData {
  readonly address: bigint;
  readonly answer: Int32Array;
}

const { address, answer } = workerData as PageReaderData;
const memory = viewMemory(address, 1);
Atomics.store(answer, 1, 1);
Atomics.store(answer, 0, (memory[0] as number) + 1);
Atomics.notify(answer, 0);
