/**
 * The thread of a relay that moves the bytes, as the main thread holds it.
 */
import { once } from 'node:events';
import { MessageChannel, Worker } from 'node:worker_threads';
import { closeEventfd, createEventfd, signalEventfd } from '../linux/poll.ts';
import type { Channel } from '../transport/channel.ts';
import type { LegEnd } from './relay-leg.ts';
import type { RelayNotice, RelayOrder, RelayThreadData } from './relay-messages.ts';
import type { RelayReport } from './relay-report.ts';

type NoticeOf<Kind extends RelayNotice['kind']> = Extract<RelayNotice, { kind: Kind }>;

export class RelayThread {
  readonly #worker: Worker;
  readonly #wakeFd: number;
  readonly #port: MessageChannel['port1'];
  readonly #handlers = new Map<RelayNotice['kind'], (notice: never) => void>();
  #failed: Promise<never>;
  #closing: Promise<RelayReport> | undefined;

  /** @throws what the thread throws before it runs: the recording cannot be opened */
  static async start(recordPath: string | undefined): Promise<RelayThread> {
    const thread = new RelayThread(recordPath);
    await Promise.race([once(thread.#worker, 'online'), thread.#failed]);
    thread.post({ kind: 'query' });
    await Promise.race([thread.#next('report'), thread.#failed]);
    return thread;
  }

  private constructor(recordPath: string | undefined) {
    const { port1, port2 } = new MessageChannel();
    this.#port = port1;
    this.#wakeFd = createEventfd();
    const data: RelayThreadData = { orders: port2, wakeFd: this.#wakeFd, recordPath };
    this.#worker = new Worker(new URL('./relay-thread.js', import.meta.url), {
      workerData: data,
      name: 'relay',
      transferList: [port2],
    });
    this.#failed = new Promise((_resolve, reject) => this.#worker.once('error', reject));
    this.#failed.catch(() => {});
    port1.on('message', (notice: RelayNotice) => this.#handlers.get(notice.kind)?.(notice as never));
  }

  on<Kind extends RelayNotice['kind']>(kind: Kind, handler: (notice: NoticeOf<Kind>) => void): void {
    this.#handlers.set(kind, handler as (notice: never) => void);
  }

  post(order: RelayOrder): void {
    this.#port.postMessage(order);
    signalEventfd(this.#wakeFd);
  }

  /** Relays between the two. @returns how that ended, the descriptors closed */
  async leg(source: Channel, destination: Channel): Promise<LegEnd & { isPostcopy: boolean }> {
    const ended = this.#next('leg-ended');
    const { hasReturnPath: sourceTakesBytes } = source;
    const { hasReturnPath: destinationSendsBytes } = destination;
    this.post({
      kind: 'leg',
      fds: {
        sourceFd: source.detach(),
        destinationFd: destination.detach(),
        sourceTakesBytes,
        destinationSendsBytes,
      },
    });
    const { end, isPostcopy } = await Promise.race([ended, this.#failed]);
    return { ...end, isPostcopy };
  }

  /** Ends the thread. May be called twice. @returns what it has seen */
  close(): Promise<RelayReport> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<RelayReport> {
    const closed = this.#next('closed');
    this.post({ kind: 'close' });
    const { report } = await Promise.race([closed, this.#failed]);
    await this.#worker.terminate();
    this.#port.close();
    closeEventfd(this.#wakeFd);
    return report;
  }

  #next<Kind extends RelayNotice['kind']>(kind: Kind): Promise<NoticeOf<Kind>> {
    const before = this.#handlers.get(kind);
    return new Promise((resolve) => {
      this.on(kind, (notice) => {
        if (before === undefined) this.#handlers.delete(kind);
        else this.#handlers.set(kind, before);
        resolve(notice);
      });
    });
  }
}
