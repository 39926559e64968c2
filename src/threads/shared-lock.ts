/**
 * A mutual exclusion between threads, over one word of shared memory. Threads that cannot have it sleep.
 */

const FREE = 0;
const HELD = 1;

export class SharedLock {
  readonly words: Int32Array;

  /** @param words one word, the same in all threads */
  constructor(words: Int32Array = new Int32Array(new SharedArrayBuffer(4))) {
    this.words = words;
  }

  /** Runs `action` while no other thread is in one. Not reentrant. */
  hold<Result>(action: () => Result): Result {
    while (Atomics.compareExchange(this.words, 0, FREE, HELD) !== FREE) Atomics.wait(this.words, 0, HELD);
    try {
      return action();
    } finally {
      Atomics.store(this.words, 0, FREE);
      Atomics.notify(this.words, 0, 1);
    }
  }
}
