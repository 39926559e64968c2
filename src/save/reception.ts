/**
 * The stream of a source on its way into a file, as the main thread holds it: the thread that saves it, and what that says.
 */
import { EventEmitter } from 'node:events';
import { rmSync } from 'node:fs';
import { MessageChannel, receiveMessageOnPort, type Worker } from 'node:worker_threads';
import { closeFd } from '../linux/fd.ts';
import { closeEventfd, createEventfd, signalEventfd } from '../linux/poll.ts';
import type { ReceivedCounts } from '../snapshot/snapshot-receiver.ts';
import type { SaveNotice, SaveOrder, SaveThreadData } from '../threads/messages.ts';
import { startSaveThread } from '../threads/start-threads.ts';
import type { Channel } from '../transport/channel.ts';

export type SavedNotice = Extract<SaveNotice, { kind: 'saved' }>;
export type FailedNotice = Extract<SaveNotice, { kind: 'failed' }>;

export type ReceptionTarget = Pick<SaveThreadData, 'path' | 'overwrite' | 'mustDrain'>;

export class Reception extends EventEmitter<{ change: [] }> {
  /** Resolves when the thread has ended and the descriptor is closed. */
  readonly ended: Promise<void>;
  counts: ReceivedCounts = { streamBytes: 0, normalPages: 0, zeroPages: 0, xbzrlePages: 0 };
  readonly #worker: Worker;
  readonly #orders: MessageChannel['port1'];
  readonly #wakeFd: number;
  readonly #fd: number;
  #isFdClosed = false;
  #hasEnded = false;
  #hasReceived = false;
  #partialPath: string | undefined;
  #outcome: SavedNotice | FailedNotice | undefined;
  #death: Error | undefined;

  constructor(channel: Channel, target: ReceptionTarget) {
    super();
    const orders = new MessageChannel();
    const { hasReturnPath } = channel;
    this.#orders = orders.port1;
    this.#wakeFd = createEventfd();
    this.#fd = channel.detach();
    orders.port1.on('message', (notice: SaveNotice) => this.#heed(notice));
    this.#worker = startSaveThread({
      fd: this.#fd,
      hasReturnPath,
      orders: orders.port2,
      wakeFd: this.#wakeFd,
      ...target,
    });
    this.#worker.on('error', (error) => {
      this.#death = error;
    });
    this.ended = new Promise((resolve) => {
      this.#worker.once('exit', () => {
        this.#giveBack();
        resolve();
      });
    });
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
      case 'file':
        this.#partialPath = notice.partialPath;
        return;
      case 'progress':
        this.counts = notice.counts;
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

  #giveBack(): void {
    this.#hasEnded = true;
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
