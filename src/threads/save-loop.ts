/**
 * Receives the stream of a source from one descriptor and makes a snapshot of it.
 *
 * It sleeps in poll(2) for the stream and for orders of the main thread. The source is told that it may end (SHUT 0) when
 * the file is on the disk under its own name, and not before; and that it must go on (SHUT 1) when there will be no file. A
 * source that has no return path just closes; then the main thread says whether the file is to be finished.
 */
import { receiveMessageOnPort } from 'node:worker_threads';
import { connectionError } from '../linux/connection-error.ts';
import { closeFd, readInto, WOULD_BLOCK } from '../linux/fd.ts';
import { SyscallError } from '../linux/libc.ts';
import { mapAnonymous } from '../linux/memory.ts';
import { drainEventfd, PollEvent, PollSet } from '../linux/poll.ts';
import { SnapshotError } from '../snapshot/snapshot-error.ts';
import { SnapshotReceiver } from '../snapshot/snapshot-receiver.ts';
import { encodeShut } from '../wire/return-path.ts';
import { StreamError } from '../wire/stream-error.ts';
import { monotonicMs } from './clock.ts';
import type { SaveFailureCause, SaveNotice, SaveOrder, SaveThreadData } from './messages.ts';
import { createSharedReturnPath, ReturnPathWriter } from './return-path-writer.ts';

/** A write takes at most as many pages as stand here. */
const BUFFER_BYTES = 4 * 1024 * 1024;
/** Also how often the main thread has what was written put on its way to the disk. */
const PROGRESS_MS = 50;
/** Device state is saved already when the first byte of it comes: a source that stops in it hangs, or never says its end. */
const DEVICES_SILENCE_MS = 60_000;
/** How long the source may take to read our last word before we close. */
const LINGER_MS = 5000;

/** The save is over, without a file. */
class SaveFailure extends Error {
  readonly failureCause: SaveFailureCause;

  constructor(failureCause: SaveFailureCause, message: string) {
    super(message);
    this.failureCause = failureCause;
  }
}

export class SaveLoop {
  readonly #data: SaveThreadData;
  readonly #polls = new PollSet(2);
  readonly #buffer = mapAnonymous(BUFFER_BYTES);
  #progressAtMs = 0;
  #isFinishing = false;
  #isAtEnd = false;
  /** From the start on. */
  #fd = -1;
  #returnPath!: ReturnPathWriter;
  #receiver!: SnapshotReceiver;

  constructor(data: SaveThreadData) {
    this.#data = data;
  }

  /** Waits for the source and saves it. Returns when that is over, and the descriptor closed. */
  run(): void {
    this.#notify({ kind: 'ready' });
    const start = this.#untilStarted();
    if (start !== undefined) this.#saveFrom(start.fd, start.hasReturnPath);
    this.#data.orders.close();
    this.#polls.close();
    this.#buffer.unmap();
  }

  // ---- from start to end -------------------------------------------------------------------------------------

  /** @returns undefined if nobody comes */
  #untilStarted(): Extract<SaveOrder, { kind: 'start' }> | undefined {
    for (;;) {
      const order = this.#nextOrder();
      if (order?.kind === 'start') return order;
      if (order?.kind === 'abandon') return undefined;
      this.#sleep(-1);
    }
  }

  #saveFrom(fd: number, hasReturnPath: boolean): void {
    const { path, overwrite, mustDrain } = this.#data;
    this.#fd = fd;
    this.#returnPath = new ReturnPathWriter(createSharedReturnPath(fd));
    this.#receiver = new SnapshotReceiver({
      ...{ path, overwrite, buffer: this.#buffer.bytes, hasReturnPath },
      sendReturnPath: (message) => this.#returnPath.send(message),
      onFile: (partialPath, partialFd) => this.#notify({ kind: 'file', partialPath, fd: partialFd }),
    });
    try {
      this.#save();
    } catch (error) {
      this.#receiver.abandon();
      if (this.#receiver.isReturnPathOpen) this.#returnPath.send(encodeShut(1));
      const { cause, message } = describe(error);
      this.#notify({ kind: 'failed', cause, message });
    } finally {
      // Also if this thread dies: no file is left that looks like one to come, and no source that waits for us.
      this.#receiver.abandon();
      if (mustDrain) this.#drain();
      else this.#linger();
      closeFd(fd);
      this.#notify({ kind: 'channel-closed' });
    }
  }

  #save(): void {
    const receiver = this.#receiver;
    while (!receiver.isComplete) {
      const isReady = receiver.isInDevices ? this.#waitForDevices() : this.#wait(-1);
      if (isReady && !this.#read()) break;
    }
    const completeAtMs = monotonicMs();
    if (!receiver.isComplete) this.#endWithoutReturnPath();
    else if (!receiver.isReturnPathOpen) this.#untilClosed();
    const contents = receiver.finish();
    if (receiver.isReturnPathOpen) this.#returnPath.send(encodeShut(0));
    const finishMs = monotonicMs() - completeAtMs;
    this.#notify({ kind: 'saved', contents, counts: receiver.counts, finishMs });
  }

  /** The stream has come to its end before it said so. */
  #endWithoutReturnPath(): void {
    if (this.#receiver.isReturnPathOpen) {
      const what = `the source closed it, in the middle of ${this.#receiver.reading}`;
      throw new SaveFailure('connection', what);
    }
    try {
      this.#receiver.ended();
    } catch (error) {
      // A source that gives up closes in the same way, anywhere.
      throw error instanceof StreamError ? new SaveFailure('connection', error.message) : error;
    }
    this.#untilFinishIsOrdered();
  }

  /** All is there, and only the source's end is missing. */
  #untilClosed(): void {
    while (!this.#wait(-1) || this.#read()) {}
    this.#untilFinishIsOrdered();
  }

  #untilFinishIsOrdered(): void {
    this.#notify({ kind: 'received' });
    while (!this.#isFinishing) {
      this.#sleep(-1);
      this.#takeOrder();
    }
  }

  // ---- reading -----------------------------------------------------------------------------------------------

  #waitForDevices(): boolean {
    const startedAtMs = monotonicMs();
    const isReady = this.#wait(DEVICES_SILENCE_MS);
    // A sleep may also end early.
    if (!isReady && monotonicMs() - startedAtMs >= DEVICES_SILENCE_MS) {
      const what = `the source has sent nothing for ${DEVICES_SILENCE_MS / 1000} s, amid its device state`;
      throw new SaveFailure('stream', what);
    }
    return isReady;
  }

  /** Sleeps until the stream goes on, or there is an order. @returns whether the stream does */
  #wait(timeoutMs: number): boolean {
    const isReady = this.#sleep(timeoutMs, this.#fd);
    this.#takeOrder();
    return isReady;
  }

  /** @returns whether the descriptor, if one is given, is ready */
  #sleep(timeoutMs: number, fd = -1): boolean {
    const { wakeFd } = this.#data;
    this.#polls.set(0, fd, PollEvent.IN);
    this.#polls.set(1, wakeFd, PollEvent.IN);
    this.#polls.wait(timeoutMs);
    if (this.#polls.ready(1) !== 0) drainEventfd(wakeFd);
    return this.#polls.ready(0) !== 0;
  }

  /** Reads all that is there, as far as there is room, and writes it at once. @returns false at the end of the stream */
  #read(): boolean {
    const receiver = this.#receiver;
    const free = receiver.free();
    const address = Number(this.#buffer.address) + free.byteOffset - this.#buffer.bytes.byteOffset;
    let filledBytes = 0;
    do {
      const count = this.#readSome(address + filledBytes, free.length - filledBytes);
      if (count === WOULD_BLOCK) break;
      this.#isAtEnd = count === 0;
      filledBytes += count;
      receiver.received(count);
    } while (!this.#isAtEnd && !receiver.isComplete && filledBytes < free.length);
    receiver.flush();
    const nowMs = monotonicMs();
    if (nowMs >= this.#progressAtMs) {
      this.#progressAtMs = nowMs + PROGRESS_MS;
      this.#notify({ kind: 'progress', counts: receiver.counts });
    }
    return !this.#isAtEnd;
  }

  #readSome(address: number, lengthBytes: number): number {
    try {
      return readInto(this.#fd, address, lengthBytes);
    } catch (error) {
      throw new SaveFailure('connection', connectionError(error).message);
    }
  }

  /** Lets the source send the rest, and forgets it. */
  #drain(): void {
    try {
      while (!this.#isAtEnd) {
        this.#sleep(-1, this.#fd);
        this.#isAtEnd = readInto(this.#fd, this.#buffer.address, BUFFER_BYTES) === 0;
      }
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error; // The source is gone.
    }
  }

  /**
   * Closing with bytes unread would reset the connection and could take our last word with it: read until the source closes.
   * A source that is still sending is better cut off: it would hear our word only when it has sent everything.
   */
  #linger(): void {
    if (!this.#receiver.isReturnPathOpen || !this.#receiver.isComplete) return;
    const deadlineMs = monotonicMs() + LINGER_MS;
    try {
      while (monotonicMs() < deadlineMs) {
        const isReady = this.#sleep(deadlineMs - monotonicMs(), this.#fd);
        if (isReady && readInto(this.#fd, this.#buffer.address, BUFFER_BYTES) === 0) return;
      }
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error; // Reset by the source: it has heard enough.
    }
  }

  // ---- orders and notices ------------------------------------------------------------------------------------

  /** @throws {SaveFailure} if it is to be given up */
  #takeOrder(): void {
    const order = this.#nextOrder();
    if (order?.kind === 'abandon') throw new SaveFailure('abandoned', 'the save was given up');
    if (order?.kind === 'finish') this.#isFinishing = true;
  }

  #nextOrder(): SaveOrder | undefined {
    return receiveMessageOnPort(this.#data.orders)?.message as SaveOrder | undefined;
  }

  #notify(notice: SaveNotice): void {
    this.#data.orders.postMessage(notice);
  }
}

function describe(error: unknown): { cause: SaveFailureCause; message: string } {
  if (error instanceof SaveFailure) return { cause: error.failureCause, message: error.message };
  if (error instanceof SnapshotError) return { cause: 'file', message: error.message };
  if (error instanceof StreamError) return { cause: 'stream', message: error.message };
  throw error;
}
