/**
 * How a migration thread starts and stops the fault thread beside it: shared words, and an eventfd to wake it.
 *
 * The main thread makes both threads; a migration thread sits in system calls and could not.
 */
import { closeFd } from '../linux/fd.ts';
import { createEventfd, signalEventfd } from '../linux/poll.ts';
import { SharedLock } from './shared-lock.ts';

const STATE = 0;
const UFFD = 1;
const LOCK = 2;
const WORDS = 3;

const State = { ABSENT: 0, STARTING: 1, READY: 2, SERVING: 3, STOPPING: 4, STOPPED: 5 } as const;

/** A fault thread that does not answer in this time has died. */
const ANSWER_MS = 10_000;

export interface SharedFaultThread {
  readonly words: Int32Array;
  readonly wakeFd: number;
}

export function createSharedFaultThread(): SharedFaultThread {
  return { words: new Int32Array(new SharedArrayBuffer(WORDS * 4)), wakeFd: createEventfd() };
}

/** The migration thread's side. */
export class FaultThreadControl {
  /** Held by either thread while it changes what is noted of pages and how they are protected. */
  readonly lock: SharedLock;
  readonly #shared: SharedFaultThread;

  constructor(shared: SharedFaultThread) {
    this.#shared = shared;
    this.lock = lockOf(shared);
  }

  /** Before the main thread is asked to make the thread: from here on it can be waited for. */
  expect(): void {
    Atomics.store(this.#shared.words, STATE, State.STARTING);
  }

  /** Waits until the thread has loaded its code, so that it serves at once when told to. */
  waitUntilReady(): void {
    this.#waitWhile(State.STARTING);
    if (Atomics.load(this.#shared.words, STATE) === State.STOPPED)
      throw new Error('The fault thread has died before it was ready');
  }

  /** For the main thread, which hears of it: the thread has died, and no other takes its place. Nobody waits for it any more. */
  hasDied(): void {
    Atomics.store(this.#shared.words, STATE, State.STOPPED);
    Atomics.notify(this.#shared.words, STATE);
  }

  /** From here on the thread serves faults of this userfaultfd. */
  serve(uffd: number): void {
    this.waitUntilReady();
    Atomics.store(this.#shared.words, UFFD, uffd);
    this.#set(State.SERVING);
  }

  /** The userfaultfd that it was told to serve last; 0 if none. */
  get uffd(): number {
    return Atomics.load(this.#shared.words, UFFD);
  }

  /** The userfaultfd is about to be closed: its number will be another's. */
  forgetUffd(): void {
    Atomics.store(this.#shared.words, UFFD, 0);
  }

  /** The thread looks whether there is anything new for it. */
  wake(): void {
    signalEventfd(this.#shared.wakeFd);
  }

  /** The thread ends as soon as it has loaded and is done with the faults it has read. For who cannot wait for that. */
  requestStop(): void {
    if (!this.isGone) this.#set(State.STOPPING);
  }

  /** The thread ends; when this returns it does not touch the userfaultfd any more. May be called twice. */
  stop(): void {
    if (this.isGone) return;
    this.#waitWhile(State.STARTING);
    if (this.isGone) return;
    this.#set(State.STOPPING);
    this.#waitWhile(State.STOPPING);
  }

  /** It has ended, or was never there. */
  get isGone(): boolean {
    const state = Atomics.load(this.#shared.words, STATE);
    return state === State.ABSENT || state === State.STOPPED;
  }

  #set(state: number): void {
    Atomics.store(this.#shared.words, STATE, state);
    signalEventfd(this.#shared.wakeFd);
  }

  #waitWhile(state: number): void {
    if (Atomics.wait(this.#shared.words, STATE, state, ANSWER_MS) === 'timed-out') {
      throw new Error(`The fault thread did not answer within ${ANSWER_MS} ms`);
    }
  }
}

/** Closes the userfaultfd of a migration whose threads have died: only when the guest is gone. */
export function closeAbandonedUffd(shared: SharedFaultThread): void {
  const uffd = Atomics.exchange(shared.words, UFFD, 0);
  if (uffd !== 0) closeFd(uffd);
}

/** The fault thread's side. */
export class FaultThreadState {
  readonly lock: SharedLock;
  readonly #words: Int32Array;

  constructor(shared: SharedFaultThread) {
    this.#words = shared.words;
    this.lock = lockOf(shared);
  }

  /** Unless the thread is to stop already. */
  setReady(): void {
    Atomics.compareExchange(this.#words, STATE, State.STARTING, State.READY);
    Atomics.notify(this.#words, STATE);
  }

  setStopped(): void {
    this.#set(State.STOPPED);
  }

  get isStopping(): boolean {
    return Atomics.load(this.#words, STATE) === State.STOPPING;
  }

  /** The userfaultfd to serve, undefined while there is none. */
  get uffd(): number | undefined {
    return Atomics.load(this.#words, STATE) === State.SERVING ? Atomics.load(this.#words, UFFD) : undefined;
  }

  #set(state: number): void {
    Atomics.store(this.#words, STATE, state);
    Atomics.notify(this.#words, STATE);
  }
}

function lockOf(shared: SharedFaultThread): SharedLock {
  return new SharedLock(shared.words.subarray(LOCK, LOCK + 1));
}
