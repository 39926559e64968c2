/**
 * Save thread: a worker that reads the stream of a source from one descriptor and writes a snapshot of it.
 *
 * It sleeps in poll(2) for the stream and for orders of the main thread. The source is told that it may end (SHUT 0) when
 * the file is on the disk under its own name, and not before; and that it must go on (SHUT 1) when there will be no file. A
 * source that has no return path just closes; then the main thread says whether the file is to be finished.
 */
import { receiveMessageOnPort, workerData } from 'node:worker_threads';
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
import { connectionError } from './migration-loop.ts';
import { createSharedReturnPath, ReturnPathWriter } from './return-path-writer.ts';

/** A write takes at most as many pages as stand here. */
const BUFFER_BYTES = 4 * 1024 * 1024;
const PROGRESS_MS = 100;
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

const data = workerData as SaveThreadData;
const notify = (notice: SaveNotice) => data.orders.postMessage(notice);
const polls = new PollSet(2);
const buffer = mapAnonymous(BUFFER_BYTES);
const returnPath = new ReturnPathWriter(createSharedReturnPath(data.fd));
const receiver = new SnapshotReceiver({
  path: data.path,
  overwrite: data.overwrite,
  buffer: buffer.bytes,
  hasReturnPath: data.hasReturnPath,
  sendReturnPath: (message) => returnPath.send(message),
  onFile: (partialPath) => notify({ kind: 'file', partialPath }),
});

let progressAtMs = 0;
let isFinishing = false;
let isAtEnd = false;

try {
  save();
} catch (error) {
  receiver.abandon();
  if (receiver.isReturnPathOpen) returnPath.send(encodeShut(1));
  const { cause, message } = describe(error);
  notify({ kind: 'failed', cause, message });
} finally {
  // Also if this thread dies: no file is left that looks like one to come, and no source that waits for us.
  receiver.abandon();
  if (data.mustDrain) drain();
  else linger();
  closeFd(data.fd);
  notify({ kind: 'channel-closed' });
}
data.orders.close();
polls.close();
buffer.unmap();

function save(): void {
  while (!receiver.isComplete) {
    wait(receiver.isInDevices ? DEVICES_SILENCE_MS : -1);
    if (polls.ready(0) !== 0 && !read()) break;
  }
  const completeAtMs = monotonicMs();
  if (!receiver.isComplete) endWithoutReturnPath();
  else if (!receiver.isReturnPathOpen) untilClosed();
  const contents = receiver.finish();
  if (receiver.isReturnPathOpen) returnPath.send(encodeShut(0));
  notify({ kind: 'saved', contents, counts: receiver.counts, finishMs: monotonicMs() - completeAtMs });
}

/** Sleeps until the stream goes on, or there is an order. */
function wait(silenceMs: number): void {
  polls.set(0, data.fd, PollEvent.IN);
  polls.set(1, data.wakeFd, PollEvent.IN);
  const startedAtMs = monotonicMs();
  polls.wait(silenceMs);
  if (polls.ready(1) !== 0) {
    drainEventfd(data.wakeFd);
    takeOrders();
  }
  // A wait may also end early.
  if (silenceMs >= 0 && polls.ready(0) === 0 && monotonicMs() - startedAtMs >= silenceMs) {
    throw new SaveFailure(
      'stream',
      `the source has sent nothing for ${silenceMs / 1000} s, amid its device state`,
    );
  }
}

/** Reads all that is there, as far as there is room. @returns false at the end of the stream */
function read(): boolean {
  const free = receiver.free();
  const address = Number(buffer.address) + free.byteOffset - buffer.bytes.byteOffset;
  let filledBytes = 0;
  while (filledBytes < free.length) {
    const count = readSome(address + filledBytes, free.length - filledBytes);
    if (count === WOULD_BLOCK) break;
    isAtEnd = count === 0;
    if (isAtEnd) break;
    filledBytes += count;
  }
  receiver.received(filledBytes);
  const nowMs = monotonicMs();
  if (nowMs >= progressAtMs) {
    progressAtMs = nowMs + PROGRESS_MS;
    notify({ kind: 'progress', counts: receiver.counts });
  }
  return !isAtEnd;
}

function readSome(address: number, lengthBytes: number): number {
  try {
    return readInto(data.fd, address, lengthBytes);
  } catch (error) {
    throw new SaveFailure('connection', connectionError(error).message);
  }
}

/** The stream has come to its end before it said so. */
function endWithoutReturnPath(): void {
  if (receiver.isReturnPathOpen) {
    throw new SaveFailure('connection', `the source closed it, in the middle of ${receiver.reading}`);
  }
  try {
    receiver.ended();
  } catch (error) {
    // A source that gives up closes in the same way, anywhere.
    throw error instanceof StreamError ? new SaveFailure('connection', error.message) : error;
  }
  untilFinishIsOrdered();
}

/** All is there, and only the source's end is missing. */
function untilClosed(): void {
  for (;;) {
    wait(-1);
    if (polls.ready(0) !== 0 && !read()) break;
  }
  untilFinishIsOrdered();
}

function untilFinishIsOrdered(): void {
  notify({ kind: 'received' });
  polls.set(0, -1, 0);
  while (!isFinishing) {
    polls.set(1, data.wakeFd, PollEvent.IN);
    polls.wait(-1);
    drainEventfd(data.wakeFd);
    takeOrders();
  }
}

function takeOrders(): void {
  const taken = receiveMessageOnPort(data.orders);
  if (taken === undefined) return;
  const { kind } = taken.message as SaveOrder;
  if (kind === 'abandon') throw new SaveFailure('abandoned', 'the save was given up');
  isFinishing = true;
  takeOrders();
}

function describe(error: unknown): { cause: SaveFailureCause; message: string } {
  if (error instanceof SaveFailure) return { cause: error.failureCause, message: error.message };
  if (error instanceof SnapshotError) return { cause: 'file', message: error.message };
  if (error instanceof StreamError) return { cause: 'stream', message: error.message };
  throw error;
}

/** Lets the source send the rest, and forgets it. */
function drain(): void {
  polls.set(0, data.fd, PollEvent.IN);
  polls.set(1, -1, 0);
  try {
    while (!isAtEnd) {
      polls.wait(-1);
      isAtEnd = readInto(data.fd, buffer.address, BUFFER_BYTES) === 0;
    }
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error; // The source is gone.
  }
}

/**
 * Closing with bytes unread would reset the connection and could take our last word with it: read until the source closes.
 * A source that is still sending is better cut off: it would hear our word only when it has sent everything.
 */
function linger(): void {
  if (!receiver.isReturnPathOpen || !receiver.isComplete) return;
  const deadlineMs = monotonicMs() + LINGER_MS;
  polls.set(0, data.fd, PollEvent.IN);
  polls.set(1, -1, 0);
  while (monotonicMs() < deadlineMs) {
    if (polls.wait(deadlineMs - monotonicMs()) === 0) return;
    try {
      if (readInto(data.fd, buffer.address, BUFFER_BYTES) === 0) return;
    } catch (error) {
      if (error instanceof SyscallError) return; // Reset by the source: it has heard enough.
      throw error;
    }
  }
}
