/**
 * Writes whole messages to the return path, from several threads: the one that reads faults asks for pages, the one that
 * reads the stream answers pings. Each thread has a writer of its own; they share a lock and whether the path is closed.
 */
import { WOULD_BLOCK, writeFrom } from '../linux/fd.ts';
import { Errno, SyscallError } from '../linux/libc.ts';
import { mapAnonymous } from '../linux/memory.ts';
import { PollEvent, PollSet } from '../linux/poll.ts';
import { SharedLock } from './shared-lock.ts';

/** Of the second shared word; 0 is open. */
const CLOSED = 1;

/** A source that takes nothing for so long does not read any more. */
const STALLED_MS = 30_000;

/** What the writers of one return path share. */
export interface SharedReturnPath {
  readonly fd: number;
  /** The lock, and whether the path is closed. */
  readonly words: Int32Array;
}

export function createSharedReturnPath(fd: number): SharedReturnPath {
  return { fd, words: new Int32Array(new SharedArrayBuffer(8)) };
}

/** No writer begins another message, also if a thread has died with the lock. */
export function closeSharedReturnPath(shared: SharedReturnPath): void {
  Atomics.store(shared.words, 1, CLOSED);
}

export class ReturnPathWriter {
  readonly #fd: number;
  readonly #lock: SharedLock;
  readonly #state: Int32Array;
  readonly #buffer = mapAnonymous(4096);
  readonly #polls = new PollSet(1);

  constructor(shared: SharedReturnPath) {
    this.#fd = shared.fd;
    this.#lock = new SharedLock(shared.words.subarray(0, 1));
    this.#state = shared.words.subarray(1, 2);
  }

  /**
   * @param message at most 4096 bytes
   * @returns false if the path is closed, broken, or has taken nothing for 30 s; it is closed then
   */
  send(message: Uint8Array): boolean {
    return this.#lock.hold(() => {
      if (Atomics.load(this.#state, 0) === CLOSED) return false;
      this.#buffer.bytes.set(message);
      try {
        this.#write(message.length);
        return true;
      } catch (error) {
        if (!(error instanceof SyscallError)) throw error;
        Atomics.store(this.#state, 0, CLOSED);
        return false;
      }
    });
  }

  /** No writer touches the descriptor after this. */
  close(): void {
    this.#lock.hold(() => Atomics.store(this.#state, 0, CLOSED));
  }

  #write(lengthBytes: number): void {
    const address = Number(this.#buffer.address);
    let at = 0;
    while (at < lengthBytes) {
      const count = writeFrom(this.#fd, address + at, lengthBytes - at);
      if (count !== WOULD_BLOCK) {
        at += count;
        continue;
      }
      this.#polls.set(0, this.#fd, PollEvent.OUT);
      if (this.#polls.wait(STALLED_MS) === 0)
        throw new SyscallError('write', Errno.ETIMEDOUT, String(this.#fd));
    }
  }
}
