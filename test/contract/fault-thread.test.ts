/**
 * The thread that asks for missing pages: when it dies, another takes its place, and nobody is left waiting.
 */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { closeFd, readInto, setNonblocking, WOULD_BLOCK } from '../../src/linux/fd.ts';
import { mapAnonymous } from '../../src/linux/memory.ts';
import { socketPair } from '../../src/linux/socket-pair.ts';
import { RegisterMode, Userfaultfd } from '../../src/linux/userfaultfd.ts';
import { PageBitmap } from '../../src/memory/page-bitmap.ts';
import { RequestTimes } from '../../src/migration/page-requests.ts';
import { createSharedFaultThread, FaultThreadControl } from '../../src/threads/fault-thread-control.ts';
import { createSharedReturnPath } from '../../src/threads/return-path-writer.ts';
import { startFaultThread } from '../../src/threads/start-threads.ts';
import { ReturnPathDecoder } from '../../src/wire/return-path-decoder.ts';
import { atEnd } from '../support/cleanup.ts';
import { until } from '../support/until.ts';
import type { PageReaderData } from './page-reader.ts';

const PAGE = 4096;
const PAGES = 4;

/** A thread that reads a page, once it is about to. @returns whether it has read a byte of this value */
async function reader(t: TestContext, address: bigint): Promise<(byte: number) => boolean> {
  const answer = new Int32Array(new SharedArrayBuffer(8));
  const workerData: PageReaderData = { address, answer };
  const worker = new Worker(new URL('./page-reader.js', import.meta.url), { workerData });
  atEnd(t, () => void worker.terminate());
  await until('a reader to come to its page', () => Atomics.load(answer, 1) === 1);
  return (byte) => Atomics.load(answer, 0) === byte + 1;
}

test('a fault thread that takes the place of one that died asks for what anybody waits for', {
  timeout: 60_000,
}, async (t) => {
  const memory = mapAnonymous(PAGES * PAGE);
  const source = mapAnonymous(PAGE);
  source.bytes.fill(7);
  const [fd, peerFd] = socketPair();
  setNonblocking(peerFd, true);
  const shared = createSharedFaultThread();
  const faultThread = new FaultThreadControl(shared);
  const uffd = Userfaultfd.open(0);
  uffd.register(memory.address, PAGES * PAGE, RegisterMode.MISSING);
  const blocks = [
    { idstr: 'ram', lengthBytes: PAGES * PAGE, pageSizeBytes: PAGE, hostAddress: memory.address },
  ];
  const data = {
    mode: 'missing',
    control: shared,
    blocks,
    bitmapWords: [PageBitmap.shared(PAGES).words],
    requestTimes: RequestTimes.allocate(blocks),
    returnPath: createSharedReturnPath(fd),
  } as const;

  const decoder = new ReturnPathDecoder();
  const incoming = mapAnonymous(PAGE);
  const requested: string[] = [];
  const takeRequests = () => {
    const count = readInto(peerFd, incoming.address, PAGE);
    if (count === WOULD_BLOCK) return;
    for (const message of decoder.push(incoming.bytes.subarray(0, count)))
      if (message.type === 'req-pages') requested.push(`${message.idstr} ${message.start / PAGE}`);
  };
  const untilRequested = (...pages: readonly string[]) =>
    until(
      `requests for ${pages}`,
      () => {
        takeRequests();
        return pages.every((page) => requested.includes(page));
      },
      () => `there are ${requested}`,
    );

  faultThread.expect();
  const first = startFaultThread({ ...data, isReplacement: false });
  faultThread.serve(uffd.fd);
  const hasReadPage1 = await reader(t, memory.address + BigInt(PAGE));
  await untilRequested('ram 1');

  const isGone = first.terminate();
  faultThread.wake();
  await isGone;
  const hasReadPage2 = await reader(t, memory.address + BigInt(2 * PAGE));
  requested.length = 0;

  const second = startFaultThread({ ...data, isReplacement: true });
  await untilRequested('ram 1', 'ram 2');
  for (const page of [1, 2]) uffd.copy(Number(memory.address) + page * PAGE, Number(source.address), PAGE);
  await until('both readers to go on', () => hasReadPage1(7) && hasReadPage2(7));
  assert.equal(new Set(requested).size, 2);

  faultThread.requestStop();
  await second.terminate();
  uffd.close();
  closeFd(fd);
  closeFd(peerFd);
});
