/**
 * The stream of a source on its way into a file, as the main thread holds it: the thread that saves it, and what that says.
 */
import { EventEmitter } from 'node:events';
import { rmSync } from 'node:fs';
import { MessageChannel, receiveMessageOnPort, type Worker } from 'node:worker_threads';
import { closeFd } from '../linux/fd.ts';
import { startWriteback } from '../linux/file-io.ts';
import { closeEventfd, createEventfd, signalEventfd } from '../linux/poll.ts';
import type { ReceivedCounts } from '../snapshot/snapshot-receiver.ts';
import type { SaveNotice, SaveOrder, SaveThreadData } from '../threads/messages.ts';
import { startSaveThread } from '../threads/start-threads.ts';
import type { Channel } from '../transport/channel.ts';

export type SavedNotice = Extract<SaveNotice, { kind: 'saved' }>;
export type FailedNotice = Extract<SaveNotice, { kind: 'failed' }>;

/** So many pages, 16 MiB, are worth the way to the disk. */
const WRITEBACK_PAGES = 4096;

export type ReceptionTarget = Pick<SaveThreadData, 'path' | 'overwrite' | 'mustDrain'>;

export class Reception extends EventEmitter<{ change: [] }> {
  /** Resolves when the thread is there, or has ended. */
  readonly ready: Promise<void>;
  /** Resolves when the thread has ended and the descriptor is closed. */
  readonly ended: Promise<void>;
  counts: ReceivedCounts = { streamBytes: 0, normalPages: 0, zeroPages: 0, xbzrlePages: 0 };
  readonly #worker: Worker;
  readonly #orders: MessageChannel['port1'];
  readonly #wakeFd: number;
  #becomeReady: () => void = () => {};
  /** Of the channel, from `start()` on. */
  #fd = -1;
  #isFdClosed = true;
  #hasEnded = false;
  #hasReceived = false;
  #partialPath: string | undefined;
  #writeback: { readonly fd: number; isBusy: boolean; donePages: number } | undefined;
  #outcome: SavedNotice | FailedNotice | undefined;
  #death: Error | undefined;

  /** Starts the thread, so that the source does not wait for that when it comes. */
  constructor(target: ReceptionTarget) {
    super();
    const orders = new MessageChannel();
    this.#orders = orders.port1;
    this.#wakeFd = createEventfd();
    orders.port1.on('message', (notice: SaveNotice) => this.#heed(notice));
    this.#worker = startSaveThread({ orders: orders.port2, wakeFd: this.#wakeFd, ...target });
    this.#worker.on('error', (error) => {
      this.#death = error;
    });
    this.ready = new Promise((resolve) => {
      this.#becomeReady = resolve;
    });
    this.ended = new Promise((resolve) => {
      this.#worker.once('exit', () => {
        this.#giveBack();
        resolve();
      });
    });
  }

  /** The source has come. @param channel given away */
  start(channel: Channel): void {
    const { hasReturnPath } = channel;
    if (this.#hasEnded) {
      channel.close();
      return;
    }
    this.#fd = channel.detach();
    this.#isFdClosed = false;
    this.#order({ kind: 'start', fd: this.#fd, hasReturnPath });
  }

  /** How it has ended: undefined while it goes on. @throws what the thread died of */
  get outcome(): SavedNotice | FailedNotice | undefined {
    if (this.#death !== undefined) throw this.#death;
    return this.#outcome;
  }

  /** The outcome, if there is a file. */
  get saved(): SavedNotice | undefined {
    return this.#outcome?.kind === 'saved' ? this.#outcome : undefined;
  }

  /** Whether all has come from a source that has closed: it is then to be finished or abandoned. */
  get isWaiting(): boolean {
    return this.#hasReceived && this.#outcome === undefined;
  }

  /** The source has completed: the file is made whole. */
  finish(): void {
    this.#order({ kind: 'finish' });
  }

  /** No file is left, unless it is whole already. Resolves when the thread has ended. May be called twice. */
  async abandon(): Promise<void> {
    this.#order({ kind: 'abandon' });
    await this.ended;
  }

  /** For the end of the process, when nothing can be waited for: removes what is not whole. */
  removePartialFile(): void {
    if (this.#partialPath !== undefined) rmSync(this.#partialPath, { force: true });
  }

  #order(order: SaveOrder): void {
    if (this.#hasEnded) return;
    this.#orders.postMessage(order);
    signalEventfd(this.#wakeFd);
  }

  #heed(notice: SaveNotice): void {
    switch (notice.kind) {
      case 'ready':
        this.#becomeReady();
        return;
      case 'file':
        this.#partialPath = notice.partialPath;
        this.#writeback = { fd: notice.fd, isBusy: false, donePages: 0 };
        return;
      case 'progress':
        this.counts = notice.counts;
        this.#startWriteback();
        return;
      case 'received':
        this.#hasReceived = true;
        break;
      case 'saved':
        this.counts = notice.counts;
        this.#outcome = notice;
        break;
      case 'failed':
        this.#outcome = notice;
        break;
      case 'channel-closed':
        this.#isFdClosed = true;
        return;
    }
    this.emit('change');
  }

  /**
   * The disk has its share of the work while the rest still comes, and little is left to wait for when the guest stands still.
   * The thread may have closed the file by now: then this does nothing, or what it does hurts nobody.
   */
  #startWriteback(): void {
    const state = this.#writeback;
    if (state === undefined || state.isBusy || this.counts.normalPages - state.donePages < WRITEBACK_PAGES)
      return;
    state.isBusy = true;
    state.donePages = this.counts.normalPages;
    void startWriteback(state.fd).then(() => {
      state.isBusy = false;
    });
  }

  #giveBack(): void {
    this.#hasEnded = true;
    this.#becomeReady();
    for (let last = receiveMessageOnPort(this.#orders); last !== undefined; ) {
      this.#heed(last.message as SaveNotice);
      last = receiveMessageOnPort(this.#orders);
    }
    this.#orders.close();
    closeEventfd(this.#wakeFd);
    if (!this.#isFdClosed) closeFd(this.#fd); // The thread died before it came to that.
    if (this.#death !== undefined) this.removePartialFile();
    this.emit('change');
  }
}
