/**
 * Guest memory on its way to a file, by a thread of its own, which may wait for pages that are missing for as long as the guest.
 */
import type { Worker } from 'node:worker_threads';
import type { MemoryDumpData, MemoryDumpNotice } from '../threads/memory-dump-thread.ts';
import { startMemoryDumpThread } from '../threads/start-threads.ts';
import { VmError } from './vm.ts';

export class MemoryDump {
  readonly #thread: Worker;
  readonly #loaded: Promise<void>;
  readonly #path: string;
  readonly #error: Promise<string | undefined>;

  constructor(data: MemoryDumpData) {
    this.#path = data.path;
    const thread = startMemoryDumpThread(data);
    this.#thread = thread;
    this.#loaded = new Promise((resolve) => {
      thread.once('message', () => resolve());
      thread.once('exit', () => resolve());
    });
    this.#error = new Promise((resolve, reject) => {
      thread.on('message', (notice: MemoryDumpNotice) => {
        if (notice.kind === 'done') resolve(notice.error);
      });
      thread.once('error', reject);
      thread.once('exit', () => reject(new VmError('The virtual machine is closed')));
    });
    this.#error.catch(() => {}); // Whoever waits is told by `done`.
  }

  /** @throws {VmError} if the memory is not saved, also because nobody wants it any more */
  async done(): Promise<void> {
    const error = await this.#error;
    await this.#thread.terminate();
    if (error !== undefined) throw new VmError(`Memory could not be saved to "${this.#path}": ${error}`);
  }

  /** Ends the thread, also one that waits for a page. */
  async close(): Promise<void> {
    await this.#loaded;
    await this.#thread.terminate();
  }
}
