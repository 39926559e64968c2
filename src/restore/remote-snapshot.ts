/**
 * A snapshot on another host, as the main thread holds it: it opens connections to the server, and the fetching thread does
 * the rest.
 *
 * When the connection is lost it is opened again, later and later, for as long as the caller says. The guest runs on meanwhile,
 * and waits at the first page that is not here.
 */
import { MessageChannel, type MessagePort, type Worker } from 'node:worker_threads';
import { closeFd } from '../linux/fd.ts';
import { closeEventfd, createEventfd, signalEventfd } from '../linux/poll.ts';
import type { FetchInfo } from '../migration/fetcher.ts';
import type { PageRun } from '../migration/push-order.ts';
import { openBlock, type SnapshotBlock } from '../snapshot/snapshot.ts';
import { formatMs } from '../telemetry/format.ts';
import type { FetchNotice, FetchOrder } from '../threads/messages.ts';
import { startFetchThread } from '../threads/start-threads.ts';
import { connectChannel } from '../transport/connect.ts';
import type { TlsOptions } from '../transport/tls-channel.ts';
import { TransportError } from '../transport/transport-error.ts';
import type { SendableSnapshot } from './snapshot-source.ts';
import { readTouchOrder, TouchOrderError } from './touch-order.ts';

const FIRST_BACK_OFF_MS = 100;
const MAX_BACK_OFF_MS = 5000;

export interface RemoteSnapshotOptions {
  /** Of the server: `tcp:HOST:PORT` or `unix:PATH`. */
  readonly uri: string;
  /** Where to keep what was fetched; undefined keeps nothing. */
  readonly cacheFolder: string | undefined;
  /** Of what the guest has not asked for; 0 is no limit. */
  readonly maxBytesPerSecond: number;
  /** Fetch in the order that was recorded, if there is one. */
  readonly usesOrder: boolean;
  /** How long it is tried to reach a server again that was lost. */
  readonly reconnectForMs: number;
  /** Protects the connection. Default: nothing does. */
  readonly tls?: TlsOptions | undefined;
  /** Told in words for an operator. */
  readonly onMessage: (text: string) => void;
  readonly signal: AbortSignal;
}

/** The snapshot cannot be fetched; the text is for the operator. */
export class RemoteSnapshotError extends Error {
  override readonly name = 'RemoteSnapshotError';
}

type Identified = Extract<FetchNotice, { kind: 'identified' }>;
type Lost = Extract<FetchNotice, { kind: 'lost' }>;

/** Opens the connection, and resolves when it is known which snapshot is served. @throws {RemoteSnapshotError} */
export async function openRemoteSnapshot(options: RemoteSnapshotOptions): Promise<RemoteSnapshot> {
  const fetching = new FetchingThread(options);
  try {
    fetching.connect(await openConnection(options));
    const identified = await Promise.race([fetching.identified, aborted(options.signal)]);
    return new RemoteSnapshot(options, fetching, identified);
  } catch (error) {
    await fetching.close();
    throw error;
  }
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const onAbort = () => reject(new RemoteSnapshotError('Interrupted'));
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
  });
}

async function openConnection({ uri, signal, tls }: RemoteSnapshotOptions): Promise<number> {
  try {
    const channel = await connectChannel(uri, { signal, tls });
    return channel.detach();
  } catch (error) {
    if (!(error instanceof TransportError)) throw error;
    const text = error.message.replace(
      'is a destination listening there?',
      'is "postcopy serve" running there?',
    );
    throw new RemoteSnapshotError(text, { cause: error });
  }
}

export class RemoteSnapshot implements SendableSnapshot {
  readonly path: string;
  readonly fd: number;
  readonly machineType: string;
  readonly uuid: Uint8Array | undefined;
  readonly ramSectionId: number;
  readonly blocks: readonly SnapshotBlock[];
  readonly deviceSections: Uint8Array;
  readonly vmDescription = undefined;
  readonly fetching: NonNullable<SendableSnapshot['fetching']>;
  /** Where an order of first touches is kept; undefined without a cache. */
  readonly orderPath: string | undefined;
  readonly #thread: FetchingThread;

  constructor(
    options: RemoteSnapshotOptions,
    thread: FetchingThread,
    { snapshot, pages, cachePath }: Identified,
  ) {
    this.path = options.uri;
    this.fd = pages.pagesFd;
    this.machineType = snapshot.machineType;
    this.uuid = snapshot.uuid;
    this.ramSectionId = snapshot.ramSectionId;
    this.blocks = snapshot.blocks.map(openBlock);
    this.deviceSections = snapshot.deviceSections;
    this.orderPath = cachePath?.replace(/\.pages$/, '.order');
    this.#thread = thread;
    const demands = new MessageChannel();
    this.fetching = { pages, senderWakeFd: thread.senderWakeFd, demands: demands.port1 };
    thread.begin(options.usesOrder ? this.#recordedRuns() : [], demands.port2);
  }

  /** Resolves when all memory is on this host. */
  get complete(): Promise<void> {
    return this.#thread.complete;
  }

  /** Resolves when something of what was fetched is not kept, since there is no cache or no room in it. */
  get notKept(): Promise<void> {
    return this.#thread.notKept;
  }

  /** Rejects when no more will come. */
  get failed(): Promise<never> {
    return this.#thread.failed;
  }

  /** What was fetched so far; undefined if the thread has died. */
  info(): Promise<FetchInfo | undefined> {
    return this.#thread.info();
  }

  /**
   * Ends the connection and gives the files back. The last of the processes that use them waits until all is on disk. May be
   * called twice, and only when nobody sends pages on any more.
   */
  close(): Promise<void> {
    return this.#thread.close();
  }

  /** Whoever sends the pages on says what is wrong with the file, if something is. */
  #recordedRuns(): readonly PageRun[] {
    if (this.orderPath === undefined) return [];
    try {
      return readTouchOrder(this.orderPath, this)?.runs ?? [];
    } catch (error) {
      if (error instanceof TouchOrderError) return [];
      throw error;
    }
  }
}

/** The fetching thread, and the connections that it is given. */
class FetchingThread {
  readonly senderWakeFd = createEventfd();
  readonly identified: Promise<Identified>;
  readonly complete: Promise<void>;
  readonly notKept: Promise<void>;
  readonly failed: Promise<never>;
  readonly #options: RemoteSnapshotOptions;
  readonly #wakeFd = createEventfd();
  readonly #orders: MessagePort;
  readonly #worker: Worker;
  readonly #ended: Promise<void>;
  readonly #questions = new Map<number, (info: FetchInfo | undefined) => void>();
  #onIdentified: (notice: Identified) => void = () => {};
  #onComplete: () => void = () => {};
  #onNotKept: () => void = () => {};
  #onFailed: (error: Error) => void = () => {};
  #nextId = 1;
  #isIdentified = false;
  #isOver = false;
  /** The connection was lost then, and is not there again. */
  #lostAtMs: number | undefined;
  #backOffMs = FIRST_BACK_OFF_MS;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: RemoteSnapshotOptions) {
    this.#options = options;
    this.failed = new Promise((_, reject) => {
      this.#onFailed = reject;
    });
    this.failed.catch(() => {}); // whoever waits for something else is told as well
    this.complete = new Promise((resolve) => {
      this.#onComplete = resolve;
    });
    this.notKept = new Promise((resolve) => {
      this.#onNotKept = resolve;
    });
    this.identified = Promise.race([
      new Promise<Identified>((resolve) => {
        this.#onIdentified = resolve;
      }),
      this.failed,
    ]);
    this.identified.catch(() => {});
    const { port1, port2 } = new MessageChannel();
    this.#orders = port1;
    port1.on('message', (notice: FetchNotice) => this.#heed(notice));
    this.#worker = startFetchThread({
      orders: port2,
      wakeFd: this.#wakeFd,
      senderWakeFd: this.senderWakeFd,
      cacheFolder: options.cacheFolder,
      maxBytesPerSecond: options.maxBytesPerSecond,
    });
    this.#worker.on('error', (error) => this.#fail(`Fetching ended: ${error.message}`));
    this.#ended = new Promise((resolve) => this.#worker.once('exit', () => resolve(this.#end())));
  }

  connect(fd: number): void {
    this.#order({ kind: 'connect', fd });
  }

  begin(first: readonly PageRun[], demands: MessagePort): void {
    this.#order({ kind: 'begin', first, demands }, [demands]);
  }

  info(): Promise<FetchInfo | undefined> {
    if (this.#isOver) return Promise.resolve(undefined);
    const id = this.#nextId++;
    return new Promise((resolve) => {
      this.#questions.set(id, resolve);
      this.#order({ kind: 'query', id });
    });
  }

  async close(): Promise<void> {
    clearTimeout(this.#timer);
    this.#order({ kind: 'close' });
    await this.#ended;
  }

  #order(order: FetchOrder, transfer: MessagePort[] = []): void {
    if (this.#isOver) return;
    this.#orders.postMessage(order, transfer);
    signalEventfd(this.#wakeFd);
  }

  #end(): void {
    this.#isOver = true;
    clearTimeout(this.#timer);
    for (const resolve of this.#questions.values()) resolve(undefined);
    this.#orders.close();
    closeEventfd(this.#wakeFd);
    closeEventfd(this.senderWakeFd);
  }

  #heed(notice: FetchNotice): void {
    switch (notice.kind) {
      case 'identified':
        this.#isIdentified = true;
        this.#onIdentified(notice);
        return;
      case 'resumed': {
        const awayMs = performance.now() - (this.#lostAtMs ?? performance.now());
        this.#lostAtMs = undefined;
        this.#backOffMs = FIRST_BACK_OFF_MS;
        this.#options.onMessage(`the server is there again, after ${formatMs(awayMs)}`);
        return;
      }
      case 'lost':
        this.#lost(notice);
        return;
      case 'not-kept':
        this.#onNotKept();
        if (notice.why !== undefined) this.#options.onMessage(notice.why);
        return;
      case 'complete':
        clearTimeout(this.#timer);
        this.#onComplete();
        return;
      case 'info':
        this.#questions.get(notice.id)?.(notice.info);
        this.#questions.delete(notice.id);
        return;
    }
  }

  #lost({ cause, error }: Lost): void {
    const { uri, reconnectForMs, onMessage } = this.#options;
    if (!this.#isIdentified) {
      const what =
        cause === 'protocol' ? 'serves no snapshot that can be fetched' : 'did not say what it serves';
      this.#fail(`"${uri}" ${what}: ${error}`);
      return;
    }
    if (cause === 'store') {
      this.#fail(error);
      return;
    }
    if (cause === 'other-snapshot') {
      this.#fail(`${error}. Start that server with the snapshot it had, and restore again`);
      return;
    }
    if (this.#lostAtMs === undefined) {
      this.#lostAtMs = performance.now();
      const patience = formatMs(reconnectForMs);
      onMessage(
        `the connection to "${uri}" is lost: ${error}. It is tried again for ${patience}; the guest waits if it must`,
      );
    }
    this.#tryAgain(error);
  }

  #tryAgain(error: string): void {
    const { uri, reconnectForMs, signal } = this.#options;
    const awayMs = performance.now() - (this.#lostAtMs ?? 0);
    if (awayMs + this.#backOffMs > reconnectForMs) {
      this.#fail(`"${uri}" was not there again within ${formatMs(reconnectForMs)}: ${error}`);
      return;
    }
    this.#timer = setTimeout(async () => {
      this.#backOffMs = Math.min(MAX_BACK_OFF_MS, this.#backOffMs * 2);
      try {
        const fd = await openConnection(this.#options);
        if (this.#isOver) closeFd(fd);
        else this.connect(fd);
      } catch (failure) {
        if (!signal.aborted && !this.#isOver) this.#tryAgain((failure as Error).message);
      }
    }, this.#backOffMs);
  }

  #fail(text: string): void {
    this.#onFailed(new RemoteSnapshotError(text));
  }
}
