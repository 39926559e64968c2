/**
 * Fetching thread: a worker that brings the memory of a snapshot from its server to this host.
 *
 * It owns the connection, the cache files and the file in memory; another thread reads them and sends the pages on.
 *
 *   poll ◀── connection, orders of the main thread, demands of the sending thread, room in memory
 *     └──▶ cache files, then the bitmap of available pages, then the sending thread is woken
 *
 * A connection that is lost is the main thread's to open again; until then everything waits.
 */
import { type MessagePort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { CacheError } from '../cache/cache-error.ts';
import { cacheLayout } from '../cache/cache-layout.ts';
import { PageCache } from '../cache/page-cache.ts';
import { connectionError } from '../linux/connection-error.ts';
import { closeFd, readInto, WOULD_BLOCK, writeFrom } from '../linux/fd.ts';
import { createMemoryFile } from '../linux/file-io.ts';
import { mapAnonymous } from '../linux/memory.ts';
import { drainEventfd, PollEvent, PollSet, signalEventfd } from '../linux/poll.ts';
import { nameThread, scheduleThread } from '../linux/scheduling.ts';
import { setPeerTimeout } from '../linux/socket-options.ts';
import { Fetcher } from '../migration/fetcher.ts';
import { MigrationError } from '../migration/migration-error.ts';
import type { PulledSnapshot } from '../migration/pull-session.ts';
import type { SnapshotBlockData } from '../snapshot/snapshot.ts';
import { MIN_STREAM_BUFFER_BYTES } from '../wire/stream-decoder.ts';
import { StreamError } from '../wire/stream-error.ts';
import { monotonicMs } from './clock.ts';
import { CacheStore } from './fetch-store.ts';
import { allocateFetchedPages, type FetchedPagesData } from './fetched-pages.ts';
import type { FetchNotice, FetchOrder, FetchThreadData, PageDemand } from './messages.ts';
import { PEER_TIMEOUT_MS } from './migration-loop.ts';

const BUFFER_BYTES = Math.max(MIN_STREAM_BUFFER_BYTES, 1024 * 1024);
/** Requests and answers that the server has not taken yet; one that takes none of so many is not served any further. */
const OUTGOING_BYTES = 1024 * 1024;
/** How long the server may take to close after we are done. */
const FAREWELL_MS = 2000;

class FetchLoop {
  readonly #data: FetchThreadData;
  readonly #polls = new PollSet(2);
  readonly #buffer = mapAnonymous(BUFFER_BYTES);
  readonly #outgoing = mapAnonymous(OUTGOING_BYTES);
  readonly #fetcher: Fetcher;
  #outgoingBytes = 0;
  #writtenBytes = 0;
  /** There was no room for what is to be sent. */
  #isOverrun = false;
  #fd = -1;
  #snapshot: PulledSnapshot | undefined;
  #cache: PageCache | undefined;
  #pages: FetchedPagesData | undefined;
  #demands: MessagePort | undefined;
  #hasArrived = false;
  /** Everything is here; the connection is closed at this time at the latest. */
  #closesAtMs = Number.POSITIVE_INFINITY;
  #isComplete = false;
  #isClosing = false;

  constructor(data: FetchThreadData) {
    this.#data = data;
    this.#fetcher = new Fetcher(
      this.#buffer.bytes,
      {
        identified: (snapshot) => this.#identified(snapshot),
        resumed: () => this.#notify({ kind: 'resumed' }),
        pagesArrived: () => {
          this.#hasArrived = true;
        },
        send: (message) => this.#send(message),
      },
      data.maxBytesPerSecond,
    );
  }

  /** Returns when it was ordered to close. */
  run(): void {
    try {
      while (!this.#isClosing) this.#step();
    } finally {
      this.#closeConnection();
      this.#cache?.close();
      if (this.#pages !== undefined) closeFd(this.#pages.overflowFd);
    }
    this.#demands?.close();
    this.#data.orders.close();
    this.#polls.close();
    this.#buffer.unmap();
    this.#outgoing.unmap();
  }

  #step(): void {
    for (let order = receiveMessageOnPort(this.#data.orders); order !== undefined; ) {
      this.#obey(order.message as FetchOrder);
      order = receiveMessageOnPort(this.#data.orders);
    }
    if (this.#isClosing) return;
    this.#takeDemands();
    this.#fetcher.tick(monotonicMs());
    this.#tellArrived();
    if (this.#fetcher.isComplete && !this.#isComplete) this.#complete();
    if (this.#isOverrun) this.#lost('connection', 'the server takes no requests');
    if (this.#fd >= 0) this.#write();
    this.#wait();
    if (this.#polls.ready(1) !== 0) drainEventfd(this.#data.wakeFd);
    if (this.#fd >= 0 && (this.#polls.ready(0) & ~PollEvent.OUT) !== 0) this.#read();
    this.#tellArrived();
    const nowMs = monotonicMs();
    if (this.#fd >= 0 && nowMs >= this.#closesAtMs) this.#closeConnection();
    else if (this.#fd >= 0 && !this.#isComplete && this.#fetcher.isSilent(nowMs)) {
      this.#lost('connection', 'the server does not answer');
    }
  }

  #obey(order: FetchOrder): void {
    switch (order.kind) {
      case 'connect':
        this.#connect(order.fd);
        return;
      case 'begin':
        this.#begin(order);
        return;
      case 'query':
        this.#notify({ kind: 'info', id: order.id, info: this.#fetcher.info() });
        return;
      case 'close':
        this.#isClosing = true;
        return;
    }
  }

  // ---- connection ------------------------------------------------------------------------------------------

  #connect(fd: number): void {
    this.#closeConnection();
    if (this.#isComplete) {
      closeFd(fd);
      return;
    }
    this.#fd = fd;
    setPeerTimeout(fd, PEER_TIMEOUT_MS);
    this.#fetcher.beginSession(monotonicMs());
  }

  #wait(): void {
    const isWriting = this.#writtenBytes < this.#outgoingBytes;
    this.#polls.set(0, this.#fd, PollEvent.IN | (isWriting ? PollEvent.OUT : 0));
    this.#polls.set(1, this.#data.wakeFd, PollEvent.IN);
    const nowMs = monotonicMs();
    const wakeAtMs = this.#isComplete ? Number.POSITIVE_INFINITY : this.#fetcher.wakeAtMs(nowMs);
    const untilMs = this.#fd >= 0 ? Math.min(wakeAtMs, this.#closesAtMs) : wakeAtMs;
    this.#polls.wait(Math.max(0, untilMs - nowMs));
  }

  #read(): void {
    try {
      // One read at a time: what came is known to the guest before the next.
      const free = this.#isComplete ? this.#buffer.bytes : this.#fetcher.free();
      const address = this.#buffer.address + BigInt(free.byteOffset - this.#buffer.bytes.byteOffset);
      const count = readInto(this.#fd, address, free.length);
      if (count === WOULD_BLOCK) return;
      if (this.#isComplete) {
        if (count === 0) this.#closeConnection();
        return;
      }
      if (count === 0) this.#lost('connection', 'the server closed it');
      else this.#fetcher.received(count, monotonicMs());
    } catch (error) {
      if (this.#isComplete) this.#closeConnection();
      else if (error instanceof StreamError) this.#lost('protocol', error.message);
      else if (error instanceof MigrationError) this.#lost('other-snapshot', error.message);
      else if (error instanceof CacheError) this.#lost('store', error.message);
      else this.#lost('connection', connectionError(error).message);
    }
  }

  #send(message: Uint8Array): void {
    if (this.#outgoingBytes + message.length > OUTGOING_BYTES) {
      this.#outgoing.bytes.copyWithin(0, this.#writtenBytes, this.#outgoingBytes);
      this.#outgoingBytes -= this.#writtenBytes;
      this.#writtenBytes = 0;
    }
    this.#isOverrun ||= this.#outgoingBytes + message.length > OUTGOING_BYTES;
    if (this.#isOverrun) return;
    this.#outgoing.bytes.set(message, this.#outgoingBytes);
    this.#outgoingBytes += message.length;
  }

  #write(): void {
    try {
      while (this.#writtenBytes < this.#outgoingBytes) {
        const address = this.#outgoing.address + BigInt(this.#writtenBytes);
        const count = writeFrom(this.#fd, address, this.#outgoingBytes - this.#writtenBytes);
        if (count === WOULD_BLOCK) return;
        this.#writtenBytes += count;
      }
      this.#outgoingBytes = 0;
      this.#writtenBytes = 0;
    } catch (error) {
      if (this.#isComplete) this.#closeConnection();
      else this.#lost('connection', connectionError(error).message);
    }
  }

  #lost(cause: Extract<FetchNotice, { kind: 'lost' }>['cause'], error: string): void {
    this.#closeConnection();
    this.#fetcher.sessionLost();
    this.#notify({ kind: 'lost', cause, error });
  }

  #closeConnection(): void {
    this.#outgoingBytes = 0;
    this.#writtenBytes = 0;
    this.#isOverrun = false;
    if (this.#fd < 0) return;
    closeFd(this.#fd);
    this.#fd = -1;
  }

  // ---- pages -----------------------------------------------------------------------------------------------

  /** Who the snapshot is, is known: opens where its pages go to, and asks the main thread what to begin with. */
  #identified(snapshot: PulledSnapshot): void {
    this.#snapshot = snapshot;
    this.#cache = this.#openCache(snapshot);
    const overflowFd = createMemoryFile('postcopy fetched pages');
    this.#pages = {
      pagesFd: this.#cache?.pagesFd ?? overflowFd,
      overflowFd,
      ...allocateFetchedPages(snapshot.blocks, snapshot.content),
      fetcherWakeFd: this.#data.wakeFd,
    };
    const layout = cacheLayout(snapshot.blocks);
    const blocks = snapshot.blocks.map(
      (block, index): SnapshotBlockData => ({
        ...block,
        contentWords: snapshot.content[index]?.words as Int32Array,
        offsets: layout.blocks[index]?.pagesAt as number,
      }),
    );
    const { content: _, ...known } = snapshot;
    const cachePath = this.#cache?.pagesPath;
    this.#notify({ kind: 'identified', snapshot: { ...known, blocks }, pages: this.#pages, cachePath });
  }

  #openCache({ digest, blocks }: PulledSnapshot): PageCache | undefined {
    const { cacheFolder } = this.#data;
    if (cacheFolder === undefined) {
      this.#notify({ kind: 'not-kept', why: undefined });
      return undefined;
    }
    try {
      return PageCache.open({ folder: cacheFolder, digest, blocks });
    } catch (error) {
      if (!(error instanceof CacheError)) throw error;
      this.#notify({ kind: 'not-kept', why: `${error.message}; what is fetched is not kept` });
      return undefined;
    }
  }

  #begin({ first, demands }: Extract<FetchOrder, { kind: 'begin' }>): void {
    const [snapshot, pages] = [this.#snapshot as PulledSnapshot, this.#pages as FetchedPagesData];
    this.#demands = demands;
    this.#cache?.present.forEach((present, block) => {
      const available = pages.availableWords[block] as Int32Array;
      present.words.forEach((word, index) => {
        available[index]! |= word;
      });
    });
    const onFull = (error: Error) => {
      const why = `The cache takes no more: ${connectionError(error).message}. What is fetched from now on is not kept`;
      this.#notify({ kind: 'not-kept', why });
    };
    const store = new CacheStore(this.#cache, snapshot.blocks, pages, this.#buffer.address, onFull);
    this.#fetcher.setStore(store, first);
  }

  #takeDemands(): void {
    if (this.#demands === undefined) return;
    for (let taken = receiveMessageOnPort(this.#demands); taken !== undefined; ) {
      const { block, page } = taken.message as PageDemand;
      this.#fetcher.demand(block, page, monotonicMs());
      taken = receiveMessageOnPort(this.#demands);
    }
  }

  #tellArrived(): void {
    if (!this.#hasArrived) return;
    this.#hasArrived = false;
    signalEventfd(this.#data.senderWakeFd);
  }

  /** Others may fetch what we have claimed and not got: nothing is left of that. */
  #complete(): void {
    this.#isComplete = true;
    this.#fetcher.endSession();
    this.#closesAtMs = monotonicMs() + FAREWELL_MS;
    this.#notify({ kind: 'complete' });
  }

  #notify(notice: FetchNotice): void {
    this.#data.orders.postMessage(notice);
  }
}

// A guest waits for what comes here.
nameThread('fetch');
scheduleThread({ sliceUs: 200, nice: -10 });
new FetchLoop(workerData as FetchThreadData).run();
