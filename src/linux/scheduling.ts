/**
 * How soon a thread gets a processor when it wakes, and to whom it gives way.
 *
 * A thread that wakes goes before a running one of longer time slices, at once rather than at the next tick of the kernel,
 * which may be 4 ms away. Linux 6.12 lets a thread choose its slice without privilege; older kernels ignore the choice. A
 * nice value below 0 needs CAP_SYS_NICE or RLIMIT_NICE.
 *
 * See sched_setattr(2), and the kernel's Documentation/scheduler/sched-eevdf.rst.
 */
import { libc } from './libc.ts';
import { mapAnonymous } from './memory.ts';

const SYS_sched_setattr = { x64: 314, arm64: 274 } as Record<string, number>;
const SCHED_ATTR_BYTES = 48;

const schedSetattrCall = libc.func('long syscall(long number, long pid, uintptr_t attr, long flags)');

export interface ThreadScheduling {
  /** Length of the thread's time slice in microseconds, 100 to 100 000. */
  readonly sliceUs: number;
  /** -20 (first) to 19 (last). Where a negative one is not allowed, 0 is taken. */
  readonly nice: number;
}

/** Sets how the calling thread is scheduled. Never fails: every thread works without, only later. */
export function scheduleThread({ sliceUs, nice }: ThreadScheduling): void {
  const number = SYS_sched_setattr[process.arch];
  if (number === undefined) return;
  const attr = mapAnonymous(4096);
  const view = new DataView(attr.bytes.buffer);
  view.setUint32(0, SCHED_ATTR_BYTES, true);
  view.setInt32(16, nice, true);
  view.setBigUint64(24, BigInt(sliceUs) * 1000n, true); // sched_runtime: of a SCHED_OTHER thread its slice
  if (Number(schedSetattrCall(number, 0, attr.address, 0)) === -1 && nice < 0) {
    view.setInt32(16, 0, true);
    schedSetattrCall(number, 0, attr.address, 0);
  }
  attr.unmap();
}
