/** A V86Machine in a worker thread, behind the Machine contract: for tests with more than one machine. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import type { DeviceSection, Machine } from '../../src/machine/machine.ts';
import type { GuestEvent, V86MachineOptions } from '../../src/machine/v86/v86-options.ts';
import type { RamBlock } from '../../src/memory/ram-block.ts';

type Description = Pick<Machine, 'machineType' | 'ramBlocks' | 'deviceSection'>;
type Answer = { id: number; result?: unknown; error?: Error; serial?: Uint8Array; event?: GuestEvent };

export class ThreadedV86 implements Machine {
  machineType = '';
  ramBlocks: readonly RamBlock[] = [];
  deviceSection!: DeviceSection;
  /** All the guest has written to COM1. */
  console = '';
  readonly events: GuestEvent[] = [];

  readonly #worker: Worker;
  readonly #calls = new Map<number, { resolve: (result: never) => void; reject: (error: Error) => void }>();
  #nextId = 0;
  #isClosed = false;

  private constructor(options: V86MachineOptions) {
    this.#worker = new Worker(new URL('./v86-thread.js', import.meta.url), { workerData: options });
    this.#worker.on('message', (answer: Answer) => this.#answered(answer));
    this.#worker.on('error', (error) => {
      for (const call of this.#calls.values()) call.reject(error);
      this.#calls.clear();
    });
  }

  static async create(options: V86MachineOptions): Promise<ThreadedV86> {
    const machine = new ThreadedV86(options);
    const { machineType, ramBlocks, deviceSection } = await machine.#call<Description>('describe');
    Object.assign(machine, { machineType, ramBlocks, deviceSection });
    return machine;
  }

  pause(): Promise<bigint> {
    return this.#call('pause');
  }

  resume(): Promise<bigint> {
    return this.#call('resume');
  }

  saveDevices(): Promise<Uint8Array> {
    return this.#call('saveDevices');
  }

  loadDevices(state: Uint8Array): Promise<void> {
    return this.#call('loadDevices', state);
  }

  sendSerial(bytes: Uint8Array): Promise<void> {
    return this.#call('sendSerial', bytes);
  }

  guestNowMs(): Promise<number> {
    return this.#call('guestNowMs');
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    await this.#call('close');
    const exited = once(this.#worker, 'exit');
    await this.#worker.terminate();
    await exited;
  }

  #call<Result>(method: string, argument?: unknown): Promise<Result> {
    return new Promise((resolve, reject) => {
      const id = this.#nextId++;
      this.#calls.set(id, { resolve, reject });
      this.#worker.postMessage({ id, method, argument });
    });
  }

  #answered({ id, result, error, serial, event }: Answer): void {
    if (serial !== undefined) this.console += Buffer.from(serial).toString('latin1');
    if (event !== undefined) this.events.push(event);
    const call = this.#calls.get(id);
    if (call === undefined) return;
    this.#calls.delete(id);
    if (error !== undefined) call.reject(error);
    else call.resolve(result as never);
  }
}
