/**
 * Writes whole messages to the return path, from several threads: the one that reads faults asks for pages, the one that
 * reads the stream answers pings. Each thread has a writer of its own; they share a lock and which connection there is.
 *
 * After a lost connection there may be another. Requests for pages are sent on it only when `allowRequests` says so, and by
 * a thread that knows of it: the first must name its block.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { WOULD_BLOCK, writeFrom } from '../linux/fd.ts';
import { Errno, SyscallError } from '../linux/libc.ts';
import { mapAnonymous } from '../linux/memory.ts';
import { PollEvent, PollSet } from '../linux/poll.ts';
import { SharedLock } from './shared-lock.ts';

// The shared words.
const LOCK = 0;
const STATE = 1;
const FD = 2;
/** Counts the connections from 0. */
const CONNECTION = 3;
/** The connection on which requests may be sent. */
const REQUESTS = 4;
const WORDS = 5;

const State = { OPEN: 0, CLOSED: 1 } as const;

const PIECE_BYTES = 4096;
/** A live thread that cannot write lets go of the lock in much less. */
const LET_GO_MS = 200;
/** A source that takes nothing for so long does not read any more. */
const STALLED_MS = 30_000;

/** What the writers of one return path share. */
export interface SharedReturnPath {
  readonly words: Int32Array;
}

export function createSharedReturnPath(fd: number): SharedReturnPath {
  const words = new Int32Array(new SharedArrayBuffer(WORDS * 4));
  words[FD] = fd;
  return { words };
}

/** No writer begins another message, also if a thread has died with the lock. */
export function closeSharedReturnPath(shared: SharedReturnPath): void {
  Atomics.store(shared.words, STATE, State.CLOSED);
}

/**
 * Opens the lock of a path that is closed and whose connection is shut down, when its holder has died. A holder that lives lets
 * go by itself, since it cannot write any more: it is given a moment.
 */
export async function openLockOfDead(shared: SharedReturnPath): Promise<void> {
  const endsAtMs = performance.now() + LET_GO_MS;
  while (Atomics.load(shared.words, LOCK) !== 0) {
    if (performance.now() >= endsAtMs) {
      Atomics.store(shared.words, LOCK, 0);
      Atomics.notify(shared.words, LOCK);
      return;
    }
    await sleep(1);
  }
}

export class ReturnPathWriter {
  readonly #words: Int32Array;
  readonly #lock: SharedLock;
  readonly #buffer = mapAnonymous(PIECE_BYTES);
  readonly #polls = new PollSet(1);

  constructor(shared: SharedReturnPath) {
    this.#words = shared.words;
    this.#lock = new SharedLock(shared.words.subarray(LOCK, LOCK + 1));
  }

  /**
   * @param message of any length
   * @returns false if the path is closed, broken, or has taken nothing for 30 s; it is closed then
   */
  send(message: Uint8Array): boolean {
    return this.#lock.hold(() => this.#send(message));
  }

  /**
   * A request for pages.
   *
   * @param connection the one it was made for
   * @returns false also if that is not the present one any more
   */
  sendRequest(message: Uint8Array, connection: number): boolean {
    return this.#lock.hold(() => this.#load(CONNECTION) === connection && this.#send(message));
  }

  /** The connection on which requests may be sent: when it changes, what was asked for before must be again. */
  get requestConnection(): number {
    return this.#load(REQUESTS);
  }

  /** No writer touches the descriptor after this. */
  close(): void {
    this.#lock.hold(() => this.#store(STATE, State.CLOSED));
  }

  /** Gives back the memory of this writer, which writes no more. */
  free(): void {
    this.#buffer.unmap();
    this.#polls.close();
  }

  /** There is another connection. */
  reopen(fd: number): void {
    this.#lock.hold(() => {
      this.#store(FD, fd);
      this.#store(CONNECTION, this.#load(CONNECTION) + 1);
      this.#store(STATE, State.OPEN);
    });
  }

  /** Requests may be sent on the present connection; whoever sends them must be woken. */
  allowRequests(): void {
    this.#store(REQUESTS, this.#load(CONNECTION));
  }

  #send(message: Uint8Array): boolean {
    if (this.#load(STATE) === State.CLOSED) return false;
    try {
      for (let at = 0; at < message.length; at += PIECE_BYTES) {
        const piece = message.subarray(at, at + PIECE_BYTES);
        this.#buffer.bytes.set(piece);
        this.#write(piece.length);
      }
      return true;
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      this.#store(STATE, State.CLOSED);
      return false;
    }
  }

  #write(lengthBytes: number): void {
    const fd = this.#load(FD);
    const address = Number(this.#buffer.address);
    let at = 0;
    while (at < lengthBytes) {
      const count = writeFrom(fd, address + at, lengthBytes - at);
      if (count !== WOULD_BLOCK) {
        at += count;
        continue;
      }
      this.#polls.set(0, fd, PollEvent.OUT);
      if (this.#polls.wait(STALLED_MS) === 0) throw new SyscallError('write', Errno.ETIMEDOUT, String(fd));
    }
  }

  #load(word: number): number {
    return Atomics.load(this.#words, word);
  }

  #store(word: number, value: number): void {
    Atomics.store(this.#words, word, value);
  }
}
