/**
 * poll(2) and eventfd(2): how a thread that blocks in system calls waits for several things, and is woken by another.
 */
import { readSync, writeSync } from 'node:fs';
import { closeFd } from './fd.ts';
import { checked, Errno, lastErrno, libc, SyscallError } from './libc.ts';
import { type Mapping, mapAnonymous } from './memory.ts';

/** Bits of `struct pollfd`. */
export const PollEvent = { IN: 1, OUT: 4, ERR: 8, HUP: 16, NVAL: 32 } as const;

const POLLFD_BYTES = 8;
const EFD_NONBLOCK_CLOEXEC = 0o4000 | 0o2000000;

const pollCall = libc.func('int poll(uintptr_t fds, unsigned long count, int timeoutMs)');
const eventfdCall = libc.func('int eventfd(unsigned int initial, int flags)');

/** A fixed set of descriptors to wait for; its slots are changed in place. Use it in one thread. */
export class PollSet {
  readonly #memory: Mapping;
  readonly #view: DataView;
  readonly #count: number;

  constructor(count: number) {
    this.#memory = mapAnonymous(4096);
    this.#view = new DataView(this.#memory.bytes.buffer);
    this.#count = count;
    for (let slot = 0; slot < count; slot++) this.set(slot, -1, 0);
  }

  /** @param fd -1 leaves the slot out; @param events `PollEvent` bits to wait for */
  set(slot: number, fd: number, events: number): void {
    this.#view.setInt32(slot * POLLFD_BYTES, fd, true);
    this.#view.setInt16(slot * POLLFD_BYTES + 4, events, true);
  }

  /** What is ready in a slot after `wait`. */
  ready(slot: number): number {
    return this.#view.getInt16(slot * POLLFD_BYTES + 6, true);
  }

  /**
   * Blocks this thread until something is ready.
   *
   * @param timeoutMs rounded up; -1 or Infinity waits for ever
   * @returns how many slots are ready, 0 if the time passed
   */
  wait(timeoutMs: number): number {
    const count = pollCall(
      Number(this.#memory.address),
      this.#count,
      Number.isFinite(timeoutMs) ? Math.ceil(timeoutMs) : -1,
    );
    if (count === -1) {
      const errno = lastErrno();
      if (errno !== Errno.EINTR) throw new SyscallError('poll', errno);
      for (let slot = 0; slot < this.#count; slot++) this.#view.setInt16(slot * POLLFD_BYTES + 6, 0, true);
      return 0;
    }
    return count;
  }

  close(): void {
    this.#memory.unmap();
  }
}

const ONE = Buffer.from(BigUint64Array.of(1n).buffer);

/** An eventfd: whoever holds its number can wake the thread that polls it. */
export function createEventfd(): number {
  return checked(eventfdCall(0, EFD_NONBLOCK_CLOEXEC), 'eventfd');
}

/** Makes the eventfd readable. Needs no koffi, so any thread can do it at once. */
export function signalEventfd(fd: number): void {
  writeSync(fd, ONE);
}

/** Makes the eventfd quiet again; quiet already is fine. */
export function drainEventfd(fd: number): void {
  try {
    readSync(fd, Buffer.alloc(8));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
  }
}

export { closeFd as closeEventfd };
