/**
 * Starts the workers: the one place that knows their entry files.
 */
import { setFlagsFromString } from 'node:v8';
import { Worker } from 'node:worker_threads';
import { keepAllocatorThresholds } from '../linux/malloc.ts';
import { hostPageBytes } from '../linux/memory.ts';
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import type { FaultThreadData } from './fault-thread.ts';
import type { MemoryDumpData } from './memory-dump-thread.ts';
import type {
  DestinationThreadData,
  FetchThreadData,
  MachineThreadData,
  SaveThreadData,
  SnapshotThreadData,
  SourceThreadData,
} from './messages.ts';
import {
  RESOURCE_LIMITS,
  SNAPSHOT_THREAD,
  SNAPSHOT_THREAD_OPTIONS,
  takeSpareSnapshotThread,
} from './spare-snapshot-thread.ts';

/**
 * When a guest begins to run, V8 compiles the machine's hottest functions once more. Some are so large that a compiler
 * takes up to 18 MB for one of them; on all its threads at once that is the most this process ever needs.
 */
function keepMemoryLow(): void {
  setFlagsFromString('--wasm-num-compilation-tasks=1');
  keepAllocatorThresholds();
}

/** @throws {Error} on a host whose pages are not of 4 KiB: nothing smaller than its pages can be missing or dropped */
export function startMachineThread(data: MachineThreadData): Worker {
  if (hostPageBytes() !== TARGET_PAGE_BYTES) {
    throw new Error(
      `This host has pages of ${hostPageBytes()} bytes; only ${TARGET_PAGE_BYTES} are supported`,
    );
  }
  keepMemoryLow();
  return new Worker(new URL('./machine-thread.js', import.meta.url), { workerData: data, name: 'machine' });
}

export function startSourceThread(data: SourceThreadData): Worker {
  return new Worker(new URL('./source-thread.js', import.meta.url), {
    workerData: data,
    name: 'migration-source',
    resourceLimits: RESOURCE_LIMITS,
    transferList: [data.orders, data.machine],
  });
}

export function startSnapshotThread(data: SnapshotThreadData): Worker {
  const transferList = [data.orders, ...(data.fetched === undefined ? [] : [data.fetched.demands])];
  const spare = takeSpareSnapshotThread();
  if (spare === undefined)
    return new Worker(SNAPSHOT_THREAD, { ...SNAPSHOT_THREAD_OPTIONS, workerData: data, transferList });
  spare.postMessage(data, transferList);
  return spare;
}

export function startFetchThread(data: FetchThreadData): Worker {
  return new Worker(new URL('./fetch-thread.js', import.meta.url), {
    workerData: data,
    name: 'fetch',
    resourceLimits: RESOURCE_LIMITS,
    transferList: [data.orders],
  });
}

export function startSaveThread(data: SaveThreadData): Worker {
  return new Worker(new URL('./snapshot-save-thread.js', import.meta.url), {
    workerData: data,
    name: 'snapshot-save',
    resourceLimits: RESOURCE_LIMITS,
    transferList: [data.orders],
  });
}

export function startDestinationThread(data: DestinationThreadData): Worker {
  return new Worker(new URL('./destination-thread.js', import.meta.url), {
    workerData: data,
    name: 'migration-destination',
    resourceLimits: RESOURCE_LIMITS,
    transferList: [data.orders, data.machine],
  });
}

export function startFaultThread(data: FaultThreadData): Worker {
  return new Worker(new URL('./fault-thread.js', import.meta.url), {
    workerData: data,
    name: 'fault',
    resourceLimits: RESOURCE_LIMITS,
  });
}

export function startMemoryDumpThread(data: MemoryDumpData): Worker {
  return new Worker(new URL('./memory-dump-thread.js', import.meta.url), {
    workerData: data,
    name: 'memory-dump',
    resourceLimits: RESOURCE_LIMITS,
  });
}
