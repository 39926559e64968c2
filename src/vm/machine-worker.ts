/**
 * The thread of a machine, as the main thread holds it: its life, its requests, its descriptors.
 *
 * Guest memory is the thread's, and is gone with it. Whoever reads or fills it from another thread ends before `close`.
 */
import { MessageChannel, type MessagePort, type Worker } from 'node:worker_threads';
import { closeFd } from '../linux/fd.ts';
import type { RamBlock } from '../memory/ram-block.ts';
import type { DeviceSectionName } from '../migration/device-state.ts';
import { MachineClient } from '../threads/machine-client.ts';
import type { MachineNotice, MachineOrder, MachineThreadData } from '../threads/messages.ts';
import { startMachineThread } from '../threads/start-threads.ts';
import { VmError } from './vm.ts';

/** What the guest does, and what is made of orders. */
export type MachineNews = Exclude<MachineNotice, { kind: 'ready' | 'unusable' | 'detached' }>;

export interface MachineWatcher {
  onNews(news: MachineNews): void;
  /** The thread has died. */
  onDied(error: Error): void;
}

export class MachineWorker {
  readonly machineType: string;
  readonly ramBlocks: readonly RamBlock[];
  readonly deviceSection: DeviceSectionName;
  /** Pauses the guest, and lets it run on. */
  readonly client: MachineClient;
  readonly #thread: Worker;
  #watcher: MachineWatcher | undefined;
  /** Eventfds that the thread signals: ours to close when it does not any more. */
  readonly #wakeFds = new Set<number>();
  #isClosed = false;

  /** @throws {VmError} if the machine cannot be made */
  static async start(data: MachineThreadData): Promise<MachineWorker> {
    const thread = startMachineThread(data);
    const notice = await new Promise<MachineNotice>((resolve, reject) => {
      thread.once('message', resolve);
      thread.once('error', reject);
    });
    if (notice.kind === 'ready') return new MachineWorker(thread, notice);
    await thread.terminate();
    throw new VmError(notice.kind === 'unusable' ? notice.message : 'The machine did not start');
  }

  private constructor(thread: Worker, ready: MachineNotice & { kind: 'ready' }) {
    this.#thread = thread;
    this.machineType = ready.machineType;
    this.ramBlocks = ready.ramBlocks;
    this.deviceSection = ready.deviceSection;
    const { port1, port2 } = new MessageChannel();
    this.client = new MachineClient(port1);
    port1.unref();
    this.order({ kind: 'attach', port: port2, wakeFd: undefined });
    thread.on('message', (notice: MachineNotice) => this.#heed(notice));
    thread.on('error', (error) => this.#died(error));
    thread.on('exit', () => {
      for (const wakeFd of this.#wakeFds) closeFd(wakeFd);
      this.#wakeFds.clear();
      this.#died(new Error('The machine thread ended'));
    });
  }

  /** Called in the turn in which the machine was started, it misses nothing. */
  watch(watcher: MachineWatcher): void {
    this.#watcher = watcher;
  }

  order(order: MachineOrder): void {
    this.#thread.postMessage(order, order.kind === 'attach' ? [order.port] : []);
  }

  /** @param wakeFd signalled with each reply at the port; closed when the port is, or the thread ends */
  attach(port: MessagePort, wakeFd: number): void {
    this.#wakeFds.add(wakeFd);
    this.order({ kind: 'attach', port, wakeFd });
  }

  /** Whoever waits for an answer is told that none will come. @param why for them */
  abandon(why: Error): void {
    this.#isClosed = true;
    this.client.abandon(why);
  }

  /** Ends the thread, and guest memory with it. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#thread.terminate();
  }

  #heed(notice: MachineNotice): void {
    switch (notice.kind) {
      case 'ready':
      case 'unusable':
        return;
      case 'detached':
        if (notice.wakeFd !== undefined && this.#wakeFds.delete(notice.wakeFd)) closeFd(notice.wakeFd);
        return;
      default:
        this.#watcher?.onNews(notice);
    }
  }

  #died(error: Error): void {
    if (this.#isClosed) return;
    this.abandon(error);
    this.#watcher?.onDied(error);
  }
}
