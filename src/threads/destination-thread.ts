/**
 * Destination migration thread: a worker that drives the destination engine over one descriptor.
 *
 * It sleeps in poll(2) for the stream, for orders of the main thread and for answers of the machine thread. It places
 * pages; the fault thread beside it asks for them. When the connection is lost in postcopy it keeps the userfaultfd, so
 * that the guest waits at a missing page rather than read zeros, and waits for an order that brings another connection.
 */
import { workerData } from 'node:worker_threads';
import { connectionError } from '../linux/connection-error.ts';
import { closeFd, readInto, WOULD_BLOCK } from '../linux/fd.ts';
import { mapAnonymous } from '../linux/memory.ts';
import { drainEventfd, PollEvent, PollSet } from '../linux/poll.ts';
import { CompilerThreads, nameThread, scheduleThread } from '../linux/scheduling.ts';
import { setPeerTimeout, shutdownBoth } from '../linux/socket-options.ts';
import { PageBitmap } from '../memory/page-bitmap.ts';
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import { DestinationMigration } from '../migration/destination.ts';
import { MigrationError } from '../migration/migration-error.ts';
import { RequestTimes } from '../migration/page-requests.ts';
import { monotonicMs } from './clock.ts';
import { MappedDestinationMemory } from './destination-memory.ts';
import { FaultThreadControl } from './fault-thread-control.ts';
import { MachinePort } from './machine-client.ts';
import type { DestinationThreadData, MachineReply, MigrationNotice, MigrationOrder } from './messages.ts';
import { PortTrace, takeOrders } from './migration-loop.ts';
import { ReturnPathWriter } from './return-path-writer.ts';

const BUFFER_BYTES = 1024 * 1024;
/** How long the source may take to read our last word before we close. */
const LINGER_MS = 5000;
/** The same, when this machine is being closed. */
const LINGER_CLOSING_MS = 1000;

const data = workerData as DestinationThreadData;
const notify = (notice: MigrationNotice) => data.orders.postMessage(notice);
const trace = new PortTrace(data.orders, data.traces);
const machine = new MachinePort(data.machine);
const polls = new PollSet(2);
const buffer = mapAnonymous(BUFFER_BYTES);
const compilers = new CompilerThreads();
const returnPath = new ReturnPathWriter(data.returnPath);
const faultThread = new FaultThreadControl(data.faultThread);
const memory = new MappedDestinationMemory(
  data.blocks,
  buffer.bytes,
  faultThread,
  () => notify({ kind: 'fault-thread-wanted' }),
  data.succession !== undefined,
);
const receivedBitmaps = data.receivedWords.map(
  (words, block) => new PageBitmap((data.blocks[block]?.lengthBytes ?? 0) / TARGET_PAGE_BYTES, words),
);

/** Of the present connection; a recovery brings another. */
let { fd } = data;
let isFdOpen = fd >= 0;
let isClosing = false;
/** A message for the source could not be sent; its stream may still come. */
let isReturnPathLost = false;
/** The source has closed its end. */
let isAtEnd = false;
let { peerTimeoutMs } = data;
/** When the source was last heard of, or could not be. */
let heardAtMs = monotonicMs();

const engine = new DestinationMigration({
  memory,
  buffer: buffer.bytes,
  receivedBitmaps,
  requestTimes: new RequestTimes(data.blocks, data.requestTimes),
  machineType: data.machineType,
  deviceSection: data.deviceSection,
  hasReturnPath: data.hasReturnPath,
  peerTimeoutMs,
  effects: {
    sendReturnPath: (message) => {
      if (!returnPath.send(message)) isReturnPathLost = true;
    },
    loadDevices: (state) => machine.postState(state),
    resumeGuest: (shouldRun) => {
      if (engine.status === 'postcopy-active') notify({ kind: 'run', ...engine.guest });
      if (shouldRun && !data.staysPaused) {
        if (engine.status !== 'postcopy-active') notify({ kind: 'resuming' });
        machine.post('resume');
        return;
      }
      notify({ kind: 'arrived', isRunning: false });
      engine.guestResumed(undefined, monotonicMs());
    },
    requestPagesAgain: () => {
      returnPath.allowRequests();
      faultThread.wake();
    },
    statusChanged: (status, error) => {
      if (status === 'postcopy-paused') closeChannel();
      if (status === 'postcopy-active') compilers.giveWay(true);
      if (engine.isOver) compilers.giveWay(false);
      notify({ kind: 'status', status, error: error?.message, isGuestElsewhere: false });
    },
  },
  clock: monotonicMs,
  trace,
});

nameThread('destination');
scheduleThread({ sliceUs: 200, nice: -10 });
if (data.succession === undefined) {
  if (data.hasReturnPath) setPeerTimeout(fd, peerTimeoutMs);
  engine.start(monotonicMs());
} else {
  const { why, hasMoved: isGuestOurs, guest } = data.succession;
  memory.notePresentPages(receivedBitmaps);
  engine.adopt(new MigrationError(why), { ...guest, isGuestOurs }, monotonicMs());
}
while (!isClosing && (!engine.isOver || machine.hasUnanswered)) step();
linger();
closeChannel();
returnPath.free();
memory.close();
notify({ kind: 'ended', info: engine.info(monotonicMs()) });
data.orders.close();
data.machine.close();
polls.close();
buffer.unmap();

function step(): void {
  takeOrders(data.orders, obey);
  for (let reply = machine.collect(); reply !== undefined; reply = machine.collect()) takeReply(reply);
  if (isClosing || (engine.isOver && !machine.hasUnanswered)) return;
  // The guest runs here on what it has: the threads stay, so that it waits at a missing page and can be asked about.
  if (engine.isOver || engine.isPaused) {
    sleepUntilWoken();
    return;
  }
  if (isReturnPathLost) {
    engine.channelLost(new Error('the source does not take answers any more'), monotonicMs());
    return;
  }
  const free = engine.free();
  polls.set(0, free.length > 0 ? fd : -1, PollEvent.IN);
  polls.set(1, data.wakeFd, PollEvent.IN);
  const { silenceLimitMs } = engine;
  if (free.length === 0) heardAtMs = monotonicMs();
  const givesUpAtMs = heardAtMs + silenceLimitMs;
  polls.wait(givesUpAtMs < Number.POSITIVE_INFINITY ? Math.max(0, givesUpAtMs - monotonicMs()) : -1);
  if (polls.ready(1) !== 0) drainEventfd(data.wakeFd);
  if (free.length > 0 && polls.ready(0) !== 0) read(free);
  else if (monotonicMs() >= givesUpAtMs) {
    const what = `nothing was heard of the source for ${silenceLimitMs / 1000} s`;
    engine.channelLost(new MigrationError(what), monotonicMs());
  }
}

/** @throws {Error} if there is nothing to recover; the descriptor is closed then */
function recover(newFd: number): void {
  try {
    if (!engine.isPaused)
      throw new MigrationError('Migrate recover can only be run when postcopy is paused.');
    setPeerTimeout(newFd, peerTimeoutMs);
    engine.recover(monotonicMs());
  } catch (error) {
    closeFd(newFd);
    throw error;
  }
  fd = newFd;
  isFdOpen = true;
  heardAtMs = monotonicMs();
  isAtEnd = false;
  isReturnPathLost = false;
  returnPath.reopen(fd);
}

/** No thread touches the descriptor after this. One that waits for the source to take a message is not waited for. */
function closeChannel(): void {
  if (!isFdOpen) return;
  isFdOpen = false;
  if (engine.status.startsWith('postcopy-')) shutdownBoth(fd);
  returnPath.close();
  closeFd(fd);
  notify({ kind: 'channel-closed' });
}

function sleepUntilWoken(): void {
  polls.set(0, -1, 0);
  polls.set(1, data.wakeFd, PollEvent.IN);
  polls.wait(-1);
  drainEventfd(data.wakeFd);
}

function read(free: Uint8Array): void {
  try {
    const address = Number(buffer.address) + free.byteOffset - buffer.bytes.byteOffset;
    const count = readInto(fd, address, free.length);
    if (count === WOULD_BLOCK) return;
    heardAtMs = monotonicMs();
    if (count === 0) {
      isAtEnd = true;
      engine.channelLost(undefined, monotonicMs());
    } else engine.received(count, monotonicMs());
  } catch (error) {
    isAtEnd = true;
    engine.channelLost(connectionError(error), monotonicMs());
  }
}

/** Closing with bytes unread would reset the connection and could take our last word with it: read until the source closes. */
function linger(): void {
  // A pipe that is closed before its writer is done tells that of a failure: what follows the guest is read as well.
  const isHeard = data.hasReturnPath || engine.status === 'completed';
  if (!isHeard || isAtEnd || !engine.isOver) return;
  let deadlineMs = monotonicMs() + (isClosing ? LINGER_CLOSING_MS : LINGER_MS);
  polls.set(0, fd, PollEvent.IN);
  polls.set(1, data.wakeFd, PollEvent.IN);
  while (monotonicMs() < deadlineMs) {
    polls.wait(deadlineMs - monotonicMs());
    if (polls.ready(1) !== 0) {
      drainEventfd(data.wakeFd);
      takeOrders(data.orders, obey);
      if (isClosing) deadlineMs = Math.min(deadlineMs, monotonicMs() + LINGER_CLOSING_MS);
    }
    if (polls.ready(0) === 0) continue;
    try {
      if (readInto(fd, buffer.address, BUFFER_BYTES) === 0) return;
    } catch {
      return; // Reset by the source: it has heard enough.
    }
  }
}

function obey(order: MigrationOrder): void {
  switch (order.kind) {
    case 'set-traces':
      trace.setEnabled(order.names);
      return;
    case 'query':
      notify({ kind: 'info', id: order.id, info: engine.info(monotonicMs()) });
      return;
    case 'cancel':
    case 'start-postcopy':
      notify({
        kind: 'answer',
        id: order.id,
        error: 'This is the destination: give the command at the source',
      });
      return;
    case 'pause':
      answer(order.id, () => engine.pause(monotonicMs(), order.why));
      return;
    case 'recover':
      answer(order.id, () => recover(order.fd));
      return;
    case 'close':
      isClosing = true;
      return;
    case 'set-parameters':
      peerTimeoutMs = order.parameters['x-peer-timeout'];
      engine.setPeerTimeout(peerTimeoutMs);
      if (isFdOpen && data.hasReturnPath) setPeerTimeout(fd, peerTimeoutMs);
      return;
    case 'peer-finished':
      return;
  }
}

function answer(id: number, action: () => void): void {
  try {
    action();
    notify({ kind: 'answer', id, error: undefined });
  } catch (error) {
    notify({ kind: 'answer', id, error: (error as Error).message });
  }
}

function takeReply(reply: MachineReply): void {
  const nowMs = monotonicMs();
  switch (reply.kind) {
    case 'devices-loaded':
      engine.devicesLoaded(nowMs);
      return;
    case 'resumed':
      notify({ kind: 'arrived', isRunning: true });
      engine.guestResumed(reply.downtime, nowMs);
      return;
    case 'failed':
      engine.machineFailed(new Error(reply.message), nowMs);
      return;
    case 'paused':
    case 'devices-saved':
      return;
  }
}
