/**
 * A QEMU as a benchmark holds it: started directly or through another program, and when what happened in it.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { guestImagePath } from '../src/cli/package-info.ts';
import { QmpClient, QmpConnectionError } from '../src/qemu/qmp-client.ts';
import { MIB } from './bench.ts';

const PROGRAM = process.env['POSTCOPY_QEMU'] ?? 'qemu-system-x86_64';
const DEADLINE_MS = 120_000;
/** Memory from here on is filled; what is below is the guest's own. */
const FILLED_FROM_MIB = 16;

/** @returns what is missing for a benchmark of QEMU, undefined if nothing is */
export function whyNoQemu(): string | undefined {
  return spawnSync(PROGRAM, ['--version']).status === 0 ? undefined : `${PROGRAM} is not installed`;
}

/** Runs `body` with a folder of its own, and removes the folder after it. */
export async function withFolder<Result>(body: (folder: string) => Promise<Result>): Promise<Result> {
  const folder = mkdtempSync(join(tmpdir(), 'postcopy-bench-'));
  try {
    return await body(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

export interface BenchQemuOptions {
  readonly memoryMib: number;
  /** Its sockets and files; other QEMUs may use it under other names. */
  readonly folder: string;
  readonly name: string;
  /** A program and its arguments that start it. */
  readonly launcher?: readonly string[];
  readonly extraArgs?: readonly string[];
}

/** With a guest that writes a few pages a second, and waits for the rest of the time. */
export class BenchQemu {
  readonly qmp: QmpClient;
  readonly #child: ChildProcess;
  readonly #pidPath: string;
  readonly #startedAtMs: number;
  readonly #resumed: Promise<number>;

  static async start(options: BenchQemuOptions): Promise<BenchQemu> {
    const { memoryMib, folder, name, launcher = [], extraArgs = [] } = options;
    const socket = join(folder, `${name}.qmp`);
    const pidPath = join(folder, `${name}.pid`);
    rmSync(socket, { force: true });
    const startedAtMs = performance.now();
    const [program = '', ...args] = [
      ...launcher,
      ...[PROGRAM, '-accel', 'tcg', '-display', 'none', '-nodefaults', '-no-user-config'],
      ...['-m', `${memoryMib}M`, '-kernel', guestImagePath('random'), '-append', 'range=4M rate=100'],
      ...['-pidfile', pidPath, '-qmp', `unix:${socket},server=on,wait=off`],
      ...extraArgs,
    ];
    const child = spawn(program, args, {
      stdio: ['ignore', 'ignore', launcher.length > 0 ? 'ignore' : 'inherit'],
    });
    let heed: (event: string) => void = () => {};
    const resumed = new Promise<number>((resolve) => {
      heed = (event) => {
        if (event === 'RESUME') resolve(performance.now() - startedAtMs);
      };
    });
    try {
      const qmp = await connect(socket, child, (event) => heed(event));
      return new BenchQemu(child, qmp, pidPath, startedAtMs, resumed);
    } catch (error) {
      child.kill('SIGKILL');
      throw error;
    }
  }

  private constructor(
    child: ChildProcess,
    qmp: QmpClient,
    pidPath: string,
    startedAtMs: number,
    resumed: Promise<number>,
  ) {
    this.qmp = qmp;
    this.#child = child;
    this.#pidPath = pidPath;
    this.#startedAtMs = startedAtMs;
    this.#resumed = resumed;
  }

  /** When its guest ran on, in milliseconds since the program was started. */
  resumedMs(): Promise<number> {
    return this.#resumed;
  }

  /** Waits until its migration is complete. @returns milliseconds since the program was started */
  async completedMs(): Promise<number> {
    for (;;) {
      const { status } = await this.qmp.execute<{ status?: string }>('query-migrate');
      const nowMs = performance.now() - this.#startedAtMs;
      if (status === 'completed') return nowMs;
      assert(status !== 'failed', 'the migration failed');
      assert(nowMs < DEADLINE_MS, 'the migration did not end in time');
      await sleep(2);
    }
  }

  /** Ends QEMU, and what started it. */
  async close(): Promise<void> {
    const exited = new Promise((resolve) => this.#child.once('exit', resolve));
    this.qmp.execute('quit').catch(() => {});
    const isGone = await Promise.race([exited.then(() => true), sleep(5000, false, { ref: false })]);
    this.qmp.close();
    if (isGone) return;
    if (existsSync(this.#pidPath)) process.kill(Number(readFileSync(this.#pidPath, 'latin1')), 'SIGKILL');
    this.#child.kill('SIGKILL');
  }
}

/** Options by which all memory but the first 16 MiB is filled with random bytes. */
export function randomMemory(folder: string, memoryMib: number): string[] {
  const path = join(folder, 'random');
  const chunk = Buffer.alloc(4 * MIB);
  const fd = openSync(path, 'w');
  for (let at = FILLED_FROM_MIB; at + 4 <= memoryMib; at += 4) writeSync(fd, randomFillSync(chunk));
  closeSync(fd);
  return ['-device', `loader,file=${path},addr=${FILLED_FROM_MIB * MIB},force-raw=on`];
}

async function connect(
  socket: string,
  child: ChildProcess,
  onEvent: (event: string) => void,
): Promise<QmpClient> {
  const deadlineMs = performance.now() + DEADLINE_MS;
  for (;;) {
    assert(child.exitCode === null && child.signalCode === null, 'QEMU has ended');
    assert(performance.now() < deadlineMs, 'QEMU did not open its monitor in time');
    try {
      if (existsSync(socket))
        return await QmpClient.connect(socket, { onEvent: ({ event }) => onEvent(event) });
    } catch (error) {
      if (!(error instanceof QmpConnectionError) || error.failure !== 'refused') throw error;
    }
    await sleep(1);
  }
}
