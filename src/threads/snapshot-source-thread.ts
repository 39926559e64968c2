/**
 * Source migration thread of a snapshot: a worker that drives the source engine over one descriptor.
 *
 * Its guest stands still already and its devices are saved: memory is read from the file, and whatever the engine asks of
 * the machine is answered at once. Of a snapshot that is being fetched from elsewhere it sends what has come, and says to
 * the thread that fetches which page is needed.
 */
import { once } from 'node:events';
import { parentPort, workerData } from 'node:worker_threads';
import { signalEventfd } from '../linux/poll.ts';
import { nameThread } from '../linux/scheduling.ts';
import { PageBitmap } from '../memory/page-bitmap.ts';
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import { capturedDevices } from '../migration/device-state.ts';
import { openBlock } from '../snapshot/snapshot.ts';
import { FetchedMemory } from './fetched-memory.ts';
import { FileMemory, StillMemoryTracker } from './file-memory.ts';
import type { MachineReply, PageDemand, SnapshotThreadData } from './messages.ts';
import { PageRecording } from './page-recording.ts';
import { SourceLoop, type SourceMachine } from './source-loop.ts';

// A spare one gets it later.
const data: SnapshotThreadData = workerData ?? (await nextMessage());

nameThread('snapshot-source');

/** Answers come in the order of the questions; the loop collects them when it is woken. */
class SavedMachine implements SourceMachine {
  readonly #replies: MachineReply[] = [];

  get hasUnanswered(): boolean {
    return this.#replies.length > 0;
  }

  post(kind: Parameters<SourceMachine['post']>[0]): void {
    this.#replies.push(this.#reply(kind));
    signalEventfd(data.wakeFd);
  }

  collect(): MachineReply | undefined {
    return this.#replies.shift();
  }

  #reply(kind: Parameters<SourceMachine['post']>[0]): MachineReply {
    switch (kind) {
      case 'pause':
        return { id: 0, kind: 'paused', wasRunning: true };
      case 'save-devices':
        return { id: 0, kind: 'devices-saved', state: data.deviceSections };
      case 'resume':
        return { id: 0, kind: 'resumed', downtime: undefined };
    }
  }
}

const { fetched } = data;
const blocks = data.blocks.map(openBlock);
const fetchedMemory = fetched && new FetchedMemory(fetched.pages, blocks);
const memory = fetchedMemory ?? new FileMemory(data.snapshotFd, data.snapshotPath, blocks);
const recording = data.recordingWords && new PageRecording(data.recordingWords);

new SourceLoop(
  data,
  new SavedMachine(),
  {
    memory,
    dirtyTracker: new StillMemoryTracker(blocks.map(({ hasContent }) => hasContent)),
    dirtyBitmaps: blocks.map(({ lengthBytes }) => new PageBitmap(lengthBytes / TARGET_PAGE_BYTES)),
    machineType: data.machineType,
    uuid: data.uuid,
    encodeDevices: capturedDevices(data.description),
    ramSectionId: data.ramSectionId,
    pushFirst: data.pushFirst,
    quietBeforePushMs: data.quietBeforePushMs,
    isPulled: data.isPulled,
    isRecoverable: data.isRecoverable,
    // What is loaded in full is fetched in full before.
    ...(fetchedMemory && data.capabilities['postcopy-ram'] && { availablePages: fetchedMemory.available }),
  },
  {
    pagesRequested: (pages) => recording?.add(pages),
    pageAwaited: (block, page) => demand({ block, page }),
  },
).run();
memory.close();
fetched?.demands.close();

async function nextMessage(): Promise<SnapshotThreadData> {
  const [data] = await once(parentPort as NonNullable<typeof parentPort>, 'message');
  return data;
}

function demand(page: PageDemand): void {
  if (fetched === undefined) return;
  fetched.demands.postMessage(page);
  signalEventfd(fetched.pages.fetcherWakeFd);
}
