/**
 * Source migration thread of a guest in this process: a worker that drives the source engine over one descriptor.
 *
 * It reads guest memory by address and sends it; the machine thread stops the guest and saves its devices.
 */
import { workerData } from 'node:worker_threads';
import { viewMemory } from '../linux/memory.ts';
import { nameThread } from '../linux/scheduling.ts';
import { PageBitmap } from '../memory/page-bitmap.ts';
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import { isZeroPage } from '../memory/zero-page.ts';
import { machineDevices } from '../migration/device-state.ts';
import type { DirtyTracker, SourceMemory } from '../migration/source-ports.ts';
import { AsyncDirtyTracker, SyncDirtyTracker } from './dirty-trackers.ts';
import { FaultThreadControl } from './fault-thread-control.ts';
import { MachinePort } from './machine-client.ts';
import type { SourceThreadData } from './messages.ts';
import { OutgoingBytes } from './outgoing-bytes.ts';
import { SourceLoop } from './source-loop.ts';

const data = workerData as SourceThreadData;
const outgoing = new OutgoingBytes();

nameThread('source');
new SourceLoop(data, new MachinePort(data.machine), {
  outgoing,
  memory: guestMemory(),
  dirtyTracker: dirtyTracker(),
  dirtyBitmaps: data.dirtyWords.map((words, block) => bitmapOf(block, words)),
  machineType: data.machineType,
  encodeDevices: machineDevices(data.deviceSection),
  isRecoverable: true,
  isPeerWatched: true,
}).run();
data.machine.close();

function bitmapOf(block: number, words: Int32Array): PageBitmap {
  return new PageBitmap((data.blocks[block]?.lengthBytes ?? 0) / TARGET_PAGE_BYTES, words);
}

function guestMemory(): SourceMemory {
  const addresses = data.blocks.map(({ hostAddress }) => Number(hostAddress));
  const views = data.blocks.map(({ hostAddress, lengthBytes }) => viewMemory(hostAddress, lengthBytes));
  const sendInPlace: SourceMemory['copyPage'] = (block, offset, _target, at) =>
    outgoing.addPage(at, (addresses[block] as number) + offset);
  const copy: SourceMemory['copyPage'] = (block, offset, target, at) =>
    target.set((views[block] as Uint8Array).subarray(offset, offset + TARGET_PAGE_BYTES), at);
  return {
    blocks: data.blocks,
    // What the guest writes between this and the write to the channel makes the page dirty again, and it is sent again.
    copyPage: data.capabilities['x-checksum'] ? copy : sendInPlace,
    isZeroPage: (block, offset) => isZeroPage(views[block] as Uint8Array, offset),
  };
}

function dirtyTracker(): DirtyTracker {
  // The guest stands still: nothing is written any more.
  if (data.succession !== undefined) return { start: () => {}, sync: () => {}, stop: () => {} };
  if (data.writeFaults === undefined) return new AsyncDirtyTracker(data.blocks, data.trackingUffd);
  const noted = data.writeFaults.notedWords.map((words, block) => bitmapOf(block, words));
  return new SyncDirtyTracker(data.blocks, noted, new FaultThreadControl(data.writeFaults.control));
}
