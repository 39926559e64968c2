/**
 * What every dirty tracker owes: a copy that takes over what it reports, while another thread writes without a pause, is
 * equal to the memory whenever that thread stands still.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { whyNoAsyncDirtyTracking, whyNoSyncDirtyTracking } from '../../src/linux/dirty-tracking-support.ts';
import { mapAnonymous } from '../../src/linux/memory.ts';
import { PageBitmap } from '../../src/memory/page-bitmap.ts';
import type { DirtyTracker } from '../../src/migration/source-ports.ts';
import { AsyncDirtyTracker, SyncDirtyTracker } from '../../src/threads/dirty-trackers.ts';
import { createSharedFaultThread, FaultThreadControl } from '../../src/threads/fault-thread-control.ts';
import { startFaultThread } from '../../src/threads/start-threads.ts';
import { skipUnless } from '../support/requirements.ts';
import type { WriterData } from './dirty-tracker-writer.ts';

const PAGE_BYTES = 4096;
const PAGES = 4096;
const ROUNDS = 200;
/** The kernel's own scan is slower to come round than the bitmap of a fault thread. */
const SYNCS_A_ROUND = { async: 20, sync: 200 };
const DEADLINE_MS = 60_000;

for (const kind of ['async', 'sync'] as const) {
  test(`the ${kind} dirty tracker misses no write of a thread that never pauses`, async (t) => {
    const whyNot = kind === 'async' ? whyNoAsyncDirtyTracking() : whyNoSyncDirtyTracking();
    if (!skipUnless(t, `${kind} dirty tracking`, whyNot === undefined, whyNot?.message ?? '')) return;
    const lengthBytes = PAGES * PAGE_BYTES;
    const memory = mapAnonymous(lengthBytes);
    const blocks = [{ idstr: 'ram', lengthBytes, pageSizeBytes: PAGE_BYTES, hostAddress: memory.address }];
    const noted = PageBitmap.shared(PAGES);
    const shared = createSharedFaultThread();
    const faultThread = new FaultThreadControl(shared);
    faultThread.expect();
    const workers = [
      startFaultThread({ mode: 'write-protect', control: shared, blocks, bitmapWords: [noted.words] }),
    ];
    const tracker: DirtyTracker =
      kind === 'async' ? new AsyncDirtyTracker(blocks) : new SyncDirtyTracker(blocks, [noted], faultThread);
    const control = new Int32Array(new SharedArrayBuffer(8));
    t.after(async () => {
      tracker.stop();
      faultThread.requestStop();
      Atomics.store(control, 0, 0);
      Atomics.notify(control, 0);
      await Promise.all(workers.map((worker) => worker.terminate()));
      memory.unmap();
    });
    const writerData: WriterData = { address: memory.address, lengthBytes, control };
    const writer = new Worker(new URL('./dirty-tracker-writer.js', import.meta.url), {
      workerData: writerData,
    });
    workers.push(writer);

    const copy = Buffer.alloc(lengthBytes);
    const dirty = new PageBitmap(PAGES);
    const takeOver = () => {
      dirty.clearRange(0, PAGES);
      tracker.sync([dirty]);
      dirty.forEachRun((first, count) => {
        const [from, to] = [first * PAGE_BYTES, (first + count) * PAGE_BYTES];
        copy.set(memory.bytes.subarray(from, to), from);
      });
    };
    tracker.start([new PageBitmap(PAGES)]);
    copy.set(memory.bytes);
    const deadlineMs = performance.now() + DEADLINE_MS;
    for (let round = 0; round < ROUNDS; round++) {
      assert.ok(performance.now() < deadlineMs, `round ${round} of ${ROUNDS} in ${DEADLINE_MS} ms`);
      for (let sync = 0; sync < SYNCS_A_ROUND[kind]; sync++) takeOver();
      const turn = Atomics.add(control, 0, 1) + 1;
      while (Atomics.load(control, 1) !== turn) {
        assert.ok(performance.now() < deadlineMs, 'the writer stands still');
        Atomics.wait(control, 1, Atomics.load(control, 1), 10);
      }
      takeOver();
      const stale = [];
      for (let page = 0; page < PAGES; page++) {
        const [from, to] = [page * PAGE_BYTES, (page + 1) * PAGE_BYTES];
        if (copy.compare(memory.bytes, from, to, from, to) !== 0) stale.push(page);
      }
      assert.deepEqual(stale, [], `pages whose writes were missed in round ${round}`);
      Atomics.add(control, 0, 1);
      Atomics.notify(control, 0);
    }
  });
}
