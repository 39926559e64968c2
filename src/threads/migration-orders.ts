/**
 * The main thread's end of a migration thread: orders go in, notices come out, questions get their answers.
 */
import { type MessagePort, receiveMessageOnPort } from 'node:worker_threads';
import { signalEventfd } from '../linux/poll.ts';
import type { MigrationInfo } from '../migration/migration-info.ts';
import type { MigrationNotice, MigrationOrder } from './messages.ts';

/** What answers a question, or undefined if the thread ended before it did. */
type Answer = MigrationNotice | undefined;

export class MigrationOrders {
  readonly #port: MessagePort;
  readonly #wakeFd: number;
  readonly #onNotice: (notice: MigrationNotice) => void;
  readonly #waiting = new Map<number, (answer: Answer) => void>();
  #nextId = 1;
  #isOver = false;
  #lastInfo: MigrationInfo | undefined;

  /** @param wakeFd the eventfd that wakes the thread; it must stay open until `end` */
  constructor(port: MessagePort, wakeFd: number, onNotice: (notice: MigrationNotice) => void) {
    this.#port = port;
    this.#wakeFd = wakeFd;
    this.#onNotice = onNotice;
    port.on('message', (notice: MigrationNotice) => this.#take(notice));
  }

  /** The thread said its last word, or has died. */
  get isOver(): boolean {
    return this.#isOver;
  }

  /** Whether the thread came to its own end. */
  get hasLastInfo(): boolean {
    return this.#lastInfo !== undefined;
  }

  order(order: MigrationOrder): void {
    if (this.#isOver) return;
    this.#port.postMessage(order);
    signalEventfd(this.#wakeFd);
  }

  /** @returns undefined if the migration is over, or ends before it answers */
  ask(question: (id: number) => MigrationOrder): Promise<Answer> {
    if (this.#isOver) return Promise.resolve(undefined);
    const id = this.#nextId++;
    return new Promise((resolve) => {
      this.#waiting.set(id, resolve);
      this.order(question(id));
    });
  }

  /** Statistics: of now, or of the end; undefined if the thread died. */
  async query(): Promise<MigrationInfo | undefined> {
    const answer = await this.ask((id) => ({ kind: 'query', id }));
    return answer?.kind === 'info' ? answer.info : this.#lastInfo;
  }

  /** The thread is gone: takes what it said last, and closes the port. */
  end(): void {
    this.#isOver = true;
    // What the thread said last may still be under way when it has ended.
    for (let last = receiveMessageOnPort(this.#port); last !== undefined; ) {
      this.#take(last.message as MigrationNotice);
      last = receiveMessageOnPort(this.#port);
    }
    for (const resolve of this.#waiting.values()) resolve(undefined);
    this.#waiting.clear();
    this.#port.close();
  }

  #take(notice: MigrationNotice): void {
    if (notice.kind === 'answer' || notice.kind === 'info') {
      this.#waiting.get(notice.id)?.(notice);
      this.#waiting.delete(notice.id);
      return;
    }
    if (notice.kind === 'ended') this.#lastInfo = notice.info;
    else this.#onNotice(notice);
  }
}
