/**
 * How soon a thread gets a processor when it wakes, and to whom it gives way.
 *
 * A thread that wakes goes before a running one of longer time slices, at once rather than at the next tick of the kernel,
 * which may be 4 ms away. Linux 6.12 lets a thread choose its slice without privilege; older kernels ignore the choice. A
 * nice value below 0 needs CAP_SYS_NICE or RLIMIT_NICE.
 *
 * See sched_setattr(2), and the kernel's Documentation/scheduler/sched-eevdf.rst.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { getPriority } from 'node:os';
import { libc } from './libc.ts';
import { mapAnonymous } from './memory.ts';

const SYS_sched_setattr = { x64: 314, arm64: 274 } as Record<string, number>;
const SCHED_ATTR_BYTES = 48;

/** Low, but not so low that a thread which joins them to collect garbage waits for ever on a busy host. */
const COMPILER_NICE = 10;
const COMPILER_SLICE_US = 10_000;
/** Of a hundredth of a second each; before JavaScript can start a thread, some more have passed. */
const STARTED_WITHIN_TICKS = 1;
/** Behind the name in `/proc/PID/task/TID/stat`, from 0. */
const STAT_START_TIME = 19;

const PR_SET_NAME = 15;
/** Without the NUL at the end. */
const MAX_NAME_BYTES = 15;

const prctlCall = libc.func('int prctl(int option, str name, long, long, long)');
const schedSetattrCall = libc.func('long syscall(long number, long pid, uintptr_t attr, long flags)');

export interface ThreadScheduling {
  /** Length of the thread's time slice in microseconds, 100 to 100 000. */
  readonly sliceUs: number;
  /** -20 (first) to 19 (last). Where a negative one is not allowed, 0 is taken. */
  readonly nice: number;
}

/** Sets how the calling thread is scheduled. Never fails: every thread works without, only later. */
export function scheduleThread({ sliceUs, nice }: ThreadScheduling): void {
  if (!setAttributes(0, sliceUs, nice) && nice < 0) setAttributes(0, sliceUs, 0);
}

/**
 * The threads on which V8 compiles and collects garbage.
 *
 * V8 compiles a guest's functions for hundreds of milliseconds after it has begun to run, in pieces of several that a
 * thread of the same rank waits for; in postcopy every page the guest touches is waited for at that time. In precopy they
 * are what makes our own threads fast.
 */
export class CompilerThreads {
  readonly #threads = findCompilerThreads();

  /** Lets them give way to all others of this process, or no longer; the latter needs privilege. */
  giveWay(shouldGiveWay: boolean): void {
    const nice = shouldGiveWay ? COMPILER_NICE : getPriority(process.pid); // the main thread's own
    for (const thread of this.#threads) setAttributes(thread, shouldGiveWay ? COMPILER_SLICE_US : 0, nice);
  }
}

/** Node starts them first of all, and names them since version 22 only. */
function findCompilerThreads(): number[] {
  const others = readdirSync('/proc/self/task')
    .map(Number)
    .filter((thread) => thread !== process.pid);
  const startTimes = others.map(startedAt);
  const latest = Math.min(...startTimes.filter((time) => !Number.isNaN(time))) + STARTED_WITHIN_TICKS;
  return others.filter((_, at) => (startTimes[at] as number) <= latest);
}

/** In ticks; not a number if the thread has just ended. */
function startedAt(thread: number): number {
  try {
    const stat = readFileSync(`/proc/self/task/${thread}/stat`, 'latin1');
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[STAT_START_TIME]);
  } catch {
    return Number.NaN;
  }
}

/** @param thread 0 for the calling one */
function setAttributes(thread: number, sliceUs: number, nice: number): boolean {
  const number = SYS_sched_setattr[process.arch];
  if (number === undefined) return true;
  const attr = mapAnonymous(4096);
  const view = new DataView(attr.bytes.buffer);
  view.setUint32(0, SCHED_ATTR_BYTES, true);
  view.setInt32(16, nice, true);
  view.setBigUint64(24, BigInt(sliceUs) * 1000n, true); // sched_runtime: of a SCHED_OTHER thread its slice
  const result = Number(schedSetattrCall(number, thread, attr.address, 0));
  attr.unmap();
  return result !== -1;
}

/** Names the calling thread, for `top -H`, `perf` and `/proc/PID/task`: ASCII, cut to 15 characters. */
export function nameThread(name: string): void {
  prctlCall(PR_SET_NAME, name.slice(0, MAX_NAME_BYTES), 0, 0, 0);
}
