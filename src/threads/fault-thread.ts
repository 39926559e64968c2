/**
 * Fault thread: a worker that reads the faults of guest memory and does nothing else.
 *
 *   missing         (destination) a guest thread waits for a page: ask the source for it, over the return path
 *   write-protect   (source, kernels without asynchronous write protection) a guest thread waits to write: note that the
 *                   page is dirty, let it write
 *
 * It sleeps in poll(2) and reports nothing. The migration thread starts and stops it, see fault-thread-control.ts.
 */
import { workerData } from 'node:worker_threads';
import { drainEventfd, PollEvent, PollSet } from '../linux/poll.ts';
import { nameThread, scheduleThread } from '../linux/scheduling.ts';
import { Userfaultfd } from '../linux/userfaultfd.ts';
import { PageBitmap } from '../memory/page-bitmap.ts';
import { type RamBlock, TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import { PageRequests, RequestTimes } from '../migration/page-requests.ts';
import { monotonicMs } from './clock.ts';
import { FaultThreadState, type SharedFaultThread } from './fault-thread-control.ts';
import { ReturnPathWriter, type SharedReturnPath } from './return-path-writer.ts';

export type FaultThreadData = {
  readonly control: SharedFaultThread;
  readonly blocks: readonly RamBlock[];
  /** A bitmap per block: received pages (missing) or dirty pages (write-protect). */
  readonly bitmapWords: readonly Int32Array[];
} & (
  | {
      readonly mode: 'missing';
      readonly requestTimes: Int32Array;
      readonly returnPath: SharedReturnPath;
      /** The thread before has died: what it had read, or asked for, nobody knows. */
      readonly isReplacement: boolean;
    }
  | { readonly mode: 'write-protect' }
);

type FaultHandler = (uffd: Userfaultfd, block: number, offset: number, isWriteProtect: boolean) => void;

interface FaultServer {
  readonly handle: FaultHandler;
  /** There are faults to serve from now on. */
  begin?(uffd: Userfaultfd): void;
  /** The migration thread has woken this one. */
  woken?(): void;
  /** There are no more. */
  end?(): void;
}

const data = workerData as FaultThreadData;
const blocks = data.blocks.map(({ hostAddress, lengthBytes }) => ({
  start: Number(hostAddress),
  lengthBytes,
}));
const bitmaps = data.bitmapWords.map(
  (words, block) => new PageBitmap((data.blocks[block] as RamBlock).lengthBytes / TARGET_PAGE_BYTES, words),
);

nameThread('fault');
scheduleThread({ sliceUs: 100, nice: -10 });
const state = new FaultThreadState(data.control);
serve(data.mode === 'missing' ? requestMissingPages(data) : { handle: noteDirtyPages });

function serve(server: FaultServer): void {
  const polls = new PollSet(2);
  let uffd: Userfaultfd | undefined;
  polls.set(0, data.control.wakeFd, PollEvent.IN);
  state.setReady();
  while (!state.isStopping) {
    if (uffd === undefined && state.uffd !== undefined) {
      uffd = Userfaultfd.attach(state.uffd);
      polls.set(1, uffd.fd, PollEvent.IN);
      server.begin?.(uffd);
    }
    polls.wait(-1);
    if (polls.ready(0) !== 0) {
      drainEventfd(data.control.wakeFd);
      server.woken?.();
    }
    if (uffd !== undefined && polls.ready(1) !== 0) readFaults(uffd, server.handle);
  }
  server.end?.();
  uffd?.close();
  polls.close();
  state.setStopped();
}

function readFaults(uffd: Userfaultfd, handle: FaultHandler): void {
  uffd.readFaults((address, isWriteProtect) => {
    const block = blocks.findIndex(
      ({ start, lengthBytes }) => address >= start && address < start + lengthBytes,
    );
    const { start } = blocks[block] as { start: number };
    const offset = address - start;
    handle(uffd, block, offset - (offset % TARGET_PAGE_BYTES), isWriteProtect);
  });
}

function requestMissingPages(missing: FaultThreadData & { mode: 'missing' }): FaultServer {
  const writer = new ReturnPathWriter(missing.returnPath);
  const times = new RequestTimes(missing.blocks, missing.requestTimes);
  /** What cannot be sent on it is asked for again on the next one. */
  let connection = missing.isReplacement ? writer.requestConnection : 0;
  const send = (message: Uint8Array) => writer.sendRequest(message, connection);
  const requests = new PageRequests(missing.blocks, bitmaps, times, send);
  return {
    begin: (uffd) => {
      if (!missing.isReplacement) return;
      requests.askAgain();
      // Whoever waits tries again, and is read of once more.
      for (const { start, lengthBytes } of blocks) uffd.wake(start, lengthBytes);
    },
    handle: (uffd, block, offset) => {
      const outcome = requests.fault(block, offset, monotonicMs() * 1000);
      // The page came between the fault and our reading of it: whoever waits has been woken, or is to be now.
      if (outcome === 'received') uffd.wake((blocks[block]?.start ?? 0) + offset, TARGET_PAGE_BYTES);
    },
    woken: () => {
      if (writer.requestConnection === connection) return;
      connection = writer.requestConnection;
      requests.askAgain();
    },
    end: () => writer.free(),
  };
}

/**
 * The page is noted and made writable in one step, as the migration thread takes the notes and protects the pages in one:
 * between the two steps of the other, a page would be left writable without a note, and its writes lost.
 */
function noteDirtyPages(uffd: Userfaultfd, block: number, offset: number, isWriteProtect: boolean): void {
  const address = (blocks[block]?.start ?? 0) + offset;
  state.lock.hold(() => {
    bitmaps[block]?.setShared(offset / TARGET_PAGE_BYTES);
    if (isWriteProtect) uffd.writeProtect(address, TARGET_PAGE_BYTES, false);
    else if (uffd.zeroPage(address, TARGET_PAGE_BYTES) === 'exists') uffd.wake(address, TARGET_PAGE_BYTES);
  });
}
