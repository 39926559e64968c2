/**
 * A real QEMU as a process of a test: a guest at work in it, or waiting for a migration; driven over QMP.
 *
 * It has two monitors, since each serves one client at a time: the harness uses its own, `qmpPath` is for the program
 * under test. Several QEMUs share a folder under different names.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { type BuiltInGuest, guestImagePath } from '../../src/cli/package-info.ts';
import { checkGuest, type GuestReport, HEADER_OFFSET } from '../../src/machine/guest-check.ts';
import { atEnd } from '../support/cleanup.ts';
import {
  BOOT_MS,
  countsIn,
  LINUX_COMMAND_LINE,
  LINUX_INITRD,
  LINUX_KERNEL,
} from '../support/linux-counts.ts';
import { QmpClient } from '../support/qmp-client.ts';
import { skipUnless } from '../support/requirements.ts';
import { parseTicks, type Tick } from '../support/ticks.ts';
import { inTime, until } from '../support/until.ts';

/** The QEMU under test. */
export const QEMU = process.env['POSTCOPY_QEMU'] ?? 'qemu-system-x86_64';

/** A newer one, for what 7.2 lacks; empty if there is none. */
export const NEWER_QEMU = process.env['POSTCOPY_NEWER_QEMU'] ?? '';

/**
 * For moves of a guest that writes while its memory is copied: 7.2 with `-accel tcg` now and then misses such a write, whatever
 * it migrates to, so that its guest's memory can be torn. Newer ones do not.
 */
export const MOVER = NEWER_QEMU !== '' ? NEWER_QEMU : QEMU;

/** A range's place in the header page of a guest (src/machine/guest-check.ts). */
const RANGE_START_AT = 0x0c;
const RANGE_PAGES_AT = 0x10;
const PAGE_BYTES = 4096;

export interface QemuOptions {
  /** Of its files in the folder, and in messages. */
  readonly name?: string;
  readonly program?: string;
  /** A program and its arguments that start it: the program and options of QEMU are put behind them. */
  readonly launcher?: readonly string[];
  /** Added to the environment. */
  readonly env?: Readonly<Record<string, string>>;
  /** Of `-machine`, with further properties behind commas: `q35,memory-backend=mem`. */
  readonly machine?: string;
  readonly smp?: number;
  readonly memoryMib?: number;
  readonly guest?: BuiltInGuest | 'linux';
  /** How much memory a built-in guest uses. */
  readonly rangeMib?: number;
  /** Where it waits for a migration instead of running the guest, or `defer`. */
  readonly incoming?: string;
  /** The guest waits for `cont` (`-S`). */
  readonly isPaused?: boolean;
  /** Set before it listens. */
  readonly capabilities?: Readonly<Record<string, boolean>>;
  readonly parameters?: Readonly<Record<string, unknown>>;
  readonly extraArgs?: readonly string[];
}

export interface QemuExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** @returns whether there is a QEMU; if not, the test has been marked as skipped */
export function needsQemu(t: TestContext): boolean {
  return skipUnless(t, 'QEMU', runs(QEMU), `${QEMU} is not installed`);
}

/** @returns whether there is a newer QEMU; if not, the test has been marked as skipped */
export function needsNewerQemu(t: TestContext): boolean {
  const why = 'set POSTCOPY_NEWER_QEMU to a qemu-system-x86_64 of version 9 or later';
  return skipUnless(t, 'Newer QEMU', NEWER_QEMU !== '' && runs(NEWER_QEMU), why);
}

function runs(program: string): boolean {
  return spawnSync(program, ['--version']).status === 0;
}

export class Qemu {
  readonly name: string;
  stderr = '';
  readonly #folder: string;
  readonly #child: ChildProcess;
  readonly #exited: Promise<QemuExit>;
  #qmp: QmpClient | undefined;

  /** Starts it and connects to its monitor; where it is to wait for a migration, it listens when this resolves. */
  static async start(t: TestContext, folder: string, options: QemuOptions = {}): Promise<Qemu> {
    const qemu = new Qemu(t, folder, options);
    qemu.#qmp = await QmpClient.connect(qemu.#path('qmp'), () =>
      qemu.hasEnded ? `${qemu.name} has ended: ${qemu.stderr}` : undefined,
    );
    if (options.capabilities !== undefined) await qemu.setCapabilities(options.capabilities);
    if (options.parameters !== undefined) await qemu.setParameters(options.parameters);
    if (options.incoming !== undefined && options.incoming !== 'defer') {
      await qemu.qmp.execute('migrate-incoming', { uri: options.incoming });
    }
    return qemu;
  }

  private constructor(t: TestContext, folder: string, options: QemuOptions) {
    this.name = options.name ?? 'qemu';
    this.#folder = folder;
    const [command = '', ...launcherArgs] = [...(options.launcher ?? []), options.program ?? QEMU];
    this.#child = spawn(
      command,
      [
        ...launcherArgs,
        ...['-accel', 'tcg', '-display', 'none', '-nodefaults', '-no-user-config', '-name', this.name],
        ...['-machine', options.machine ?? 'pc', '-smp', `${options.smp ?? 1}`],
        ...['-m', `${options.memoryMib ?? 16}M`, ...kernelArgs(options)],
        ...['-serial', `file:${this.#path('serial')}`],
        ...['-qmp', `unix:${this.#path('qmp')},server=on,wait=off`],
        ...['-qmp', `unix:${this.qmpPath},server=on,wait=off`],
        ...['-pidfile', this.#path('pid')],
        ...(options.incoming === undefined ? [] : ['-incoming', 'defer']),
        ...(options.isPaused === true ? ['-S'] : []),
        ...(options.extraArgs ?? []),
      ],
      { stdio: ['ignore', 'ignore', 'pipe'], env: { ...process.env, ...options.env } },
    );
    this.#exited = new Promise((resolve) =>
      this.#child.once('exit', (code, signal) => resolve({ code, signal })),
    );
    this.#child.stderr?.on('data', (bytes) => (this.stderr += bytes));
    atEnd(t, async () => {
      this.#qmp?.close();
      this.#killLaunched(options.launcher !== undefined);
      this.#child.kill('SIGKILL');
      await this.#exited;
    });
  }

  get qmp(): QmpClient {
    if (this.#qmp === undefined) throw new Error(`${this.name} is not connected`);
    return this.#qmp;
  }

  /** The second monitor, where the program under test may connect. */
  get qmpPath(): string {
    return this.#path('operator.qmp');
  }

  get pid(): number {
    return this.#child.pid as number;
  }

  get hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  // ---- guest -----------------------------------------------------------------------------------------------

  /** What the guest wrote to its serial console here. */
  get console(): string {
    const path = this.#path('serial');
    return existsSync(path) ? readFileSync(path, 'latin1') : '';
  }

  get ticks(): Tick[] {
    return parseTicks(this.console);
  }

  async untilMoreTicks(count = 2): Promise<void> {
    const wanted = this.ticks.length + count;
    await until(
      `${wanted} ticks in ${this.name}`,
      () => this.ticks.length >= wanted,
      () => this.describe(),
    );
  }

  /** Waits until a Linux guest has written some lines from now on; the first come when it has booted. */
  async untilMoreCounts(count = 10): Promise<void> {
    const wanted = countsIn(this.console).length + count;
    await until(
      `${wanted} lines of Linux in ${this.name}`,
      () => countsIn(this.console).length >= wanted,
      () => this.describe(),
      BOOT_MS,
    );
  }

  async runState(): Promise<string> {
    return (await this.qmp.execute<{ status: string }>('query-status')).status;
  }

  /** The first bytes of guest memory; the guest should stand still. */
  saveMemory(lengthBytes: number): Promise<Buffer> {
    return this.#save(0, lengthBytes);
  }

  /**
   * Pauses a built-in guest and checks all memory that it uses: one edge, every page in its place.
   *
   * @throws {GuestMemoryError} if a page is lost, mixed up or stale
   */
  async proveOneEdge(): Promise<GuestReport> {
    await this.qmp.execute('stop');
    const header = await this.#save(HEADER_OFFSET, PAGE_BYTES);
    const start = header.readUInt32LE(RANGE_START_AT);
    const range = await this.#save(start, header.readUInt32LE(RANGE_PAGES_AT) * PAGE_BYTES);
    return checkGuest((offset, lengthBytes) =>
      offset === HEADER_OFFSET ? header : range.subarray(offset - start, offset - start + lengthBytes),
    );
  }

  // ---- migration -------------------------------------------------------------------------------------------

  async setCapabilities(states: Readonly<Record<string, boolean>>): Promise<void> {
    const capabilities = Object.entries(states).map(([capability, state]) => ({ capability, state }));
    await this.qmp.execute('migrate-set-capabilities', { capabilities });
  }

  async setParameters(values: Readonly<Record<string, unknown>>): Promise<void> {
    await this.qmp.execute('migrate-set-parameters', values);
  }

  /** Waits until `query-migrate` says one of these. @returns which */
  async untilStatus(...wanted: readonly string[]): Promise<string> {
    return await until(
      `status "${wanted.join('" or "')}" at ${this.name}`,
      async () => {
        const { status } = await this.qmp.execute<{ status?: string }>('query-migrate');
        return status !== undefined && wanted.includes(status) && status;
      },
      () => this.describe(),
    );
  }

  /** Waits until its migration, outgoing or incoming, has ended. @returns the status */
  migrationEnd(): Promise<string> {
    return this.untilStatus('completed', 'failed', 'cancelled');
  }

  // ---- process ---------------------------------------------------------------------------------------------

  async untilEnded(): Promise<QemuExit> {
    return await inTime(`the end of ${this.name}`, this.#exited, () => this.describe());
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** What is known of the process, for the message of a failed test. */
  describe(): string {
    const events = this.#qmp?.eventNames.join(', ') ?? '';
    const end = this.hasEnded ? `ended with ${this.#child.exitCode ?? this.#child.signalCode}` : 'runs';
    return `${this.name} ${end}; events: ${events}; console: …${this.console.slice(-300)}; it wrote:\n${this.stderr}`;
  }

  /** The end of a launcher is not that of QEMU. */
  #killLaunched(isLaunched: boolean): void {
    const path = this.#path('pid');
    if (!isLaunched || !existsSync(path)) return; // QEMU removes the file when it ends.
    try {
      process.kill(Number(readFileSync(path, 'latin1')), 'SIGKILL');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
    }
  }

  #path(extension: string): string {
    return join(this.#folder, `${this.name}.${extension}`);
  }

  async #save(offset: number, lengthBytes: number): Promise<Buffer> {
    const filename = this.#path('memory');
    await this.qmp.execute('pmemsave', { val: offset, size: lengthBytes, filename });
    try {
      return readFileSync(filename);
    } finally {
      rmSync(filename);
    }
  }
}

function kernelArgs({ guest = 'counter', rangeMib = 4 }: QemuOptions): string[] {
  if (guest === 'linux') {
    return ['-kernel', LINUX_KERNEL, '-initrd', LINUX_INITRD, '-append', LINUX_COMMAND_LINE];
  }
  return ['-kernel', guestImagePath(guest), '-append', `range=${rangeMib}M`];
}
