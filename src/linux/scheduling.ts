/**
 * How soon a thread gets a processor when it wakes.
 *
 * A page request that has come in must not wait until another thread's time slice is over. With privilege
 * (CAP_SYS_NICE, RLIMIT_NICE) a lower nice value does it; without, Linux 6.12 lets a thread ask for short slices of its own,
 * and a thread that wakes then goes before one with longer slices. Older kernels ignore the request.
 *
 * See sched_setattr(2), and the kernel's Documentation/scheduler/sched-eevdf.rst.
 */
import { libc } from './libc.ts';
import { mapAnonymous } from './memory.ts';

const SYS_sched_setattr = { x64: 314, arm64: 274 } as Record<string, number>;
const SCHED_ATTR_BYTES = 48;
const SLICE_NS = 100_000n;
const NICE = -10;

const schedSetattrCall = libc.func('long syscall(long number, long pid, uintptr_t attr, long flags)');

/** Asks for the calling thread to be served quickly when it wakes. Never fails: the thread works without. */
export function preferWakeups(): void {
  const number = SYS_sched_setattr[process.arch];
  if (number === undefined) return;
  const attr = mapAnonymous(4096);
  const view = new DataView(attr.bytes.buffer);
  view.setUint32(0, SCHED_ATTR_BYTES, true);
  view.setBigUint64(24, SLICE_NS, true); // sched_runtime: of a SCHED_OTHER thread its slice
  view.setInt32(16, NICE, true);
  if (Number(schedSetattrCall(number, 0, attr.address, 0)) === -1) {
    view.setInt32(16, 0, true);
    schedSetattrCall(number, 0, attr.address, 0);
  }
  attr.unmap();
}
