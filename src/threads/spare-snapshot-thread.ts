/**
 * The thread that sends a snapshot, started before it is known which: loading its modules takes as long as all the rest
 * until the guest runs, and can go on beside that.
 */
import { Worker, type WorkerOptions } from 'node:worker_threads';

export const SNAPSHOT_THREAD = new URL('./snapshot-source-thread.js', import.meta.url);

/** These threads make little garbage: a small nursery keeps their memory low and their collections short. */
export const RESOURCE_LIMITS = { maxYoungGenerationSizeMb: 4 };

export const SNAPSHOT_THREAD_OPTIONS: WorkerOptions = {
  name: 'snapshot-source',
  resourceLimits: RESOURCE_LIMITS,
};

let spare: Worker | undefined;

/** Starts one, which does not keep the process alive. */
export function startSpareSnapshotThread(): void {
  spare = new Worker(SNAPSHOT_THREAD, SNAPSHOT_THREAD_OPTIONS);
  spare.unref();
  // Whoever takes it hears of it as well, or starts another.
  spare.once('error', () => {
    spare = undefined;
  });
}

/** @returns the one that was started, once; it waits for its data as a message */
export function takeSpareSnapshotThread(): Worker | undefined {
  const taken = spare;
  spare = undefined;
  taken?.ref();
  return taken;
}
