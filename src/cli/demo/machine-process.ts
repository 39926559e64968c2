/**
 * A `postcopy run` process: started, driven over QMP, its guest's console read, ended.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { QmpClient } from '../../qemu/qmp-client.ts';

const PROGRAM = fileURLToPath(new URL('../../../../bin/postcopy.js', import.meta.url));
const POLL_MS = 20;

/** A line that a test guest writes ten times a second. */
export interface Tick {
  readonly tick: number;
  readonly pass: number;
  /** Hexadecimal. */
  readonly nonce: string;
  /** The guest's own clock. */
  readonly guestMs: number;
}

export class MachineProcess {
  readonly ticks: Tick[] = [];
  /** Console lines that say that the guest found its memory wrong. */
  readonly complaints: string[] = [];
  readonly #process: ChildProcess;
  readonly #qmpPath: string;
  #qmp: QmpClient | undefined;
  #stderr = '';

  /** @param args of `postcopy run`, without `--qmp` and `--serial`; @param qmpPath a unix socket to make */
  constructor(args: readonly string[], qmpPath: string) {
    this.#qmpPath = qmpPath;
    const all = ['run', ...args, '--monitor', 'none', '--serial', 'stdio', '--qmp', `unix:${qmpPath}`];
    this.#process = spawn(process.execPath, [PROGRAM, ...all], { stdio: ['ignore', 'pipe', 'pipe'] });
    createInterface({ input: this.#process.stdout as NodeJS.ReadableStream }).on('line', (line) =>
      this.#heed(line),
    );
    this.#process.stderr?.on('data', (chunk: Buffer) => {
      this.#stderr += chunk.toString();
    });
  }

  get pid(): number {
    return this.#process.pid ?? 0;
  }

  /** Waits until the monitor answers. @throws {Error} with what the process said, if it ends before */
  async start(deadlineMs: number): Promise<void> {
    await this.waitFor('its monitor', deadlineMs, () => existsSync(this.#qmpPath));
    this.#qmp = await QmpClient.connect(this.#qmpPath);
  }

  execute<Result = unknown>(command: string, args: Readonly<Record<string, unknown>> = {}): Promise<Result> {
    if (this.#qmp === undefined) throw new Error('The machine is not started');
    return this.#qmp.execute<Result>(command, args);
  }

  /**
   * Waits until `isThere` holds.
   *
   * @throws {Error} if the process ends before, or `deadlineMs` (of `performance.now()`) passes
   */
  async waitFor(what: string, deadlineMs: number, isThere: () => boolean | Promise<boolean>): Promise<void> {
    while (!(await isThere())) {
      if (this.#process.exitCode !== null || this.#process.signalCode !== null) {
        throw new Error(`Process ${this.pid} ended while it was waited for ${what}: ${this.#stderr.trim()}`);
      }
      if (performance.now() > deadlineMs) {
        throw new Error(`Process ${this.pid}: ${what} did not come in time. ${this.#stderr.trim()}`);
      }
      await sleep(POLL_MS);
    }
  }

  /** Ends the process: by its monitor, else by force. May be called twice. */
  async end(): Promise<void> {
    const isEnded = () => this.#process.exitCode !== null || this.#process.signalCode !== null;
    try {
      await Promise.race([this.#qmp?.execute('quit'), sleep(2000, undefined, { ref: false })]);
    } catch {
      // It closes the connection as it goes.
    }
    this.#qmp?.close();
    for (let waitedMs = 0; waitedMs < 2000 && !isEnded(); waitedMs += POLL_MS) await sleep(POLL_MS);
    if (!isEnded()) this.#process.kill('SIGKILL');
  }

  #heed(line: string): void {
    const match = /^tick=(\d+) pass=(\d+) nonce=([0-9a-fA-F]+) ms=(\d+)/.exec(line);
    if (match !== null) {
      const [, tick, pass, nonce, guestMs] = match;
      this.ticks.push({
        tick: Number(tick),
        pass: Number(pass),
        nonce: nonce ?? '',
        guestMs: Number(guestMs),
      });
    } else if (line.includes('FAIL')) {
      this.complaints.push(line);
    }
  }
}
