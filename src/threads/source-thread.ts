/**
 * Source migration thread: a worker that drives the source engine over one descriptor.
 *
 * It sleeps in poll(2) for the channel, for orders of the main thread and for answers of the machine thread. It reads
 * guest memory by address and sends it; it never touches the monitor.
 */
import { workerData } from 'node:worker_threads';
import { closeFd, fdKind, readInto, WOULD_BLOCK, writeFrom } from '../linux/fd.ts';
import { mapAnonymous, viewMemory } from '../linux/memory.ts';
import { drainEventfd, PollEvent, PollSet } from '../linux/poll.ts';
import { scheduleThread } from '../linux/scheduling.ts';
import { setUnsentLowWatermark, setUserTimeout, syncFile } from '../linux/socket-options.ts';
import { PageBitmap } from '../memory/page-bitmap.ts';
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import { isZeroPage } from '../memory/zero-page.ts';
import { SourceMigration } from '../migration/source.ts';
import type { SourceMemory } from '../migration/source-ports.ts';
import { monotonicMs } from './clock.ts';
import { AsyncDirtyTracker, SyncDirtyTracker } from './dirty-trackers.ts';
import { FaultThreadControl } from './fault-thread-control.ts';
import { MachinePort } from './machine-client.ts';
import type { MachineReply, MigrationNotice, MigrationOrder, SourceThreadData } from './messages.ts';
import { connectionError, PEER_TIMEOUT_MS, PortTrace, takeOrders } from './migration-loop.ts';

const STAGING_BYTES = 1024 * 1024;
const RETURN_PATH_BYTES = 64 * 1024;
/** Sent data that the kernel has not put on the wire yet: what the switch, and a requested page, may wait behind. */
const UNSENT_BYTES = 128 * 1024;

const data = workerData as SourceThreadData;
const notify = (notice: MigrationNotice) => data.orders.postMessage(notice);
const trace = new PortTrace(data.orders, data.traces);
const machine = new MachinePort(data.machine);
const polls = new PollSet(2);
const staging = mapAnonymous(STAGING_BYTES);
const incoming = mapAnonymous(RETURN_PATH_BYTES);
const kind = fdKind(data.fd);

/** Of what is in `staging`, how much there is and how much has been written. */
let stagedBytes = 0;
let writtenBytes = 0;
let isFdOpen = true;
let isClosing = false;

const engine = new SourceMigration({
  memory: guestMemory(),
  dirtyTracker: dirtyTracker(),
  dirtyBitmaps: data.dirtyWords.map((words, block) => bitmapOf(block, words)),
  machineType: data.machineType,
  deviceSection: data.deviceSection,
  capabilities: data.capabilities,
  parameters: data.parameters,
  hasReturnPath: data.hasReturnPath,
  effects: {
    pauseGuest: () => machine.post('pause'),
    saveDevices: () => machine.post('save-devices'),
    resumeGuest: () => machine.post('resume'),
    statusChanged: (status, error) => {
      const { isGuestElsewhere } = engine;
      // What is pushed from here on may wait; on a host that has both sides, those who place pages go first.
      if (status === 'postcopy-active') scheduleThread({ sliceUs: 10_000, nice: 5 });
      notify({ kind: 'status', status, error: error?.message, isGuestElsewhere });
    },
    passBegins: (pass) => notify({ kind: 'pass', pass }),
  },
  trace,
});

if (kind === 'socket') {
  setUnsentLowWatermark(data.fd, UNSENT_BYTES);
  setUserTimeout(data.fd, PEER_TIMEOUT_MS);
}
try {
  engine.start(monotonicMs());
  while (!isClosing && (!engine.isOver || machine.hasUnanswered)) step();
} finally {
  // Also if this thread dies: the guest must not wait for it to lift a write protection, nor the peer for more.
  engine.close();
  closeChannel();
}
notify({ kind: 'ended', info: engine.info(monotonicMs()) });
data.orders.close();
data.machine.close();
polls.close();
staging.unmap();
incoming.unmap();

function step(): void {
  takeOrders(data.orders, obey);
  for (let reply = machine.collect(); reply !== undefined; reply = machine.collect()) takeReply(reply);
  if (isClosing) return;
  const isBlocked = isFdOpen && !engine.isOver && !write();
  if (isFdOpen && engine.isFlushed && !data.hasReturnPath) flush();
  wait(isBlocked);
  if (polls.ready(1) !== 0) drainEventfd(data.wakeFd);
  if (isFdOpen && data.hasReturnPath && (polls.ready(0) & ~PollEvent.OUT) !== 0) read();
}

/** @returns false if the channel takes no more for now */
function write(): boolean {
  if (writtenBytes === stagedBytes) {
    stagedBytes = engine.fill(staging.bytes, monotonicMs());
    writtenBytes = 0;
    if (stagedBytes === 0) return true;
  }
  try {
    const count = writeFrom(data.fd, Number(staging.address) + writtenBytes, stagedBytes - writtenBytes);
    if (count === WOULD_BLOCK) return false;
    writtenBytes += count;
    engine.sent(count, monotonicMs());
    return true;
  } catch (error) {
    // The destination may have said why before it closed.
    if (data.hasReturnPath) read();
    engine.channelLost(connectionError(error), monotonicMs());
    return true;
  }
}

function wait(isBlocked: boolean): void {
  const isIdle = writtenBytes === stagedBytes && stagedBytes === 0;
  const isWatched = isFdOpen && !engine.isOver && (data.hasReturnPath || isBlocked);
  polls.set(
    0,
    isWatched ? data.fd : -1,
    (data.hasReturnPath ? PollEvent.IN : 0) | (isBlocked ? PollEvent.OUT : 0),
  );
  polls.set(1, data.wakeFd, PollEvent.IN);
  const nowMs = monotonicMs();
  if (engine.isOver) polls.wait(machine.hasUnanswered ? -1 : 0);
  else if (isBlocked) polls.wait(-1);
  else polls.wait(isIdle ? Math.max(0, engine.wakeAtMs(nowMs) - nowMs) : 0);
}

function read(): void {
  try {
    for (;;) {
      const count = readInto(data.fd, incoming.address, RETURN_PATH_BYTES);
      if (count === WOULD_BLOCK) return;
      if (count === 0) {
        engine.channelLost(undefined, monotonicMs());
        return;
      }
      engine.receive(incoming.bytes.subarray(0, count), monotonicMs());
      if (count < RETURN_PATH_BYTES) return;
    }
  } catch (error) {
    engine.channelLost(connectionError(error), monotonicMs());
  }
}

/** All is written: make a file safe, let a command see the end, and wait to hear how that went. */
function flush(): void {
  try {
    if (kind === 'file') syncFile(data.fd);
    closeChannel();
    notify({ kind: 'flushed' });
  } catch (error) {
    engine.notSaved(connectionError(error), monotonicMs());
  }
}

function obey(order: MigrationOrder): void {
  const nowMs = monotonicMs();
  switch (order.kind) {
    case 'cancel':
      answer(order.id, () => engine.cancel(nowMs));
      return;
    case 'start-postcopy':
      answer(order.id, () => engine.startPostcopy());
      return;
    case 'set-parameters':
      engine.setParameters(order.parameters, nowMs);
      return;
    case 'set-traces':
      trace.setEnabled(order.names);
      return;
    case 'query':
      notify({ kind: 'info', id: order.id, info: engine.info(nowMs) });
      return;
    case 'peer-finished':
      engine.peerFinished(order.error === undefined ? undefined : new Error(order.error), nowMs);
      return;
    case 'close':
      isClosing = true;
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
    case 'paused':
      notify({ kind: 'guest', isRunning: false });
      engine.guestPaused(reply.wasRunning);
      return;
    case 'devices-saved':
      engine.devicesSaved(reply.state, nowMs);
      return;
    case 'resumed':
      notify({ kind: 'guest', isRunning: true });
      return;
    case 'failed':
      engine.machineFailed(new Error(reply.message), nowMs);
      return;
    case 'devices-loaded':
      return;
  }
}

function closeChannel(): void {
  if (isFdOpen) closeFd(data.fd);
  isFdOpen = false;
}

function bitmapOf(block: number, words: Int32Array): PageBitmap {
  return new PageBitmap((data.blocks[block]?.lengthBytes ?? 0) / TARGET_PAGE_BYTES, words);
}

function guestMemory(): SourceMemory {
  const views = data.blocks.map(({ hostAddress, lengthBytes }) => viewMemory(hostAddress, lengthBytes));
  return {
    blocks: data.blocks,
    copyPage: (block, offset, target, at) => {
      target.set((views[block] as Uint8Array).subarray(offset, offset + TARGET_PAGE_BYTES), at);
    },
    isZeroPage: (block, offset) => isZeroPage(views[block] as Uint8Array, offset),
  };
}

function dirtyTracker(): AsyncDirtyTracker | SyncDirtyTracker {
  if (data.writeFaults === undefined) return new AsyncDirtyTracker(data.blocks);
  const noted = data.writeFaults.notedWords.map((words, block) => bitmapOf(block, words));
  return new SyncDirtyTracker(data.blocks, noted, new FaultThreadControl(data.writeFaults.control));
}
