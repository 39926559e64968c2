/**
 * A real QEMU as a process of a test: one of our guests at work in it, or waiting for a migration; driven over QMP.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { guestImagePath } from '../../src/cli/package-info.ts';
import { atEnd } from '../support/cleanup.ts';
import { QmpClient } from '../support/qmp-client.ts';
import { skipUnless } from '../support/requirements.ts';
import { parseTicks, type Tick } from '../support/ticks.ts';
import { until } from '../support/until.ts';

const PROGRAM = 'qemu-system-i386';

export interface QemuOptions {
  readonly guest?: 'counter' | 'random' | 'reader';
  /** Where it waits for a migration instead of running the guest. */
  readonly incoming?: string;
  readonly memoryMib?: number;
}

/** @returns whether there is a QEMU; if not, the test has been marked as skipped */
export function needsQemu(t: TestContext): boolean {
  const isThere = spawnSync(PROGRAM, ['--version']).status === 0;
  return skipUnless(t, 'QEMU', isThere, `${PROGRAM} is not installed`);
}

export class Qemu {
  stderr = '';
  readonly #folder: string;
  readonly #child: ChildProcess;
  #qmp: QmpClient | undefined;

  static async start(t: TestContext, folder: string, options: QemuOptions = {}): Promise<Qemu> {
    const qemu = new Qemu(t, folder, options);
    qemu.#qmp = await QmpClient.connect(join(folder, 'qemu.qmp'), () =>
      qemu.#hasEnded ? `QEMU has ended: ${qemu.stderr}` : undefined,
    );
    return qemu;
  }

  private constructor(t: TestContext, folder: string, options: QemuOptions) {
    const { guest = 'counter', incoming, memoryMib = 16 } = options;
    this.#folder = folder;
    this.#child = spawn(
      PROGRAM,
      [
        ...['-accel', 'tcg', '-display', 'none', '-nodefaults', '-no-user-config'],
        ...['-m', `${memoryMib}M`, '-kernel', guestImagePath(guest), '-append', 'range=4M'],
        ...['-serial', `file:${join(folder, 'qemu.serial')}`],
        ...['-qmp', `unix:${join(folder, 'qemu.qmp')},server=on,wait=off`],
        ...(incoming === undefined ? [] : ['-incoming', incoming]),
      ],
      { stdio: ['ignore', 'ignore', 'pipe'] },
    );
    const exited = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.stderr?.on('data', (bytes) => (this.stderr += bytes));
    atEnd(t, async () => {
      this.#qmp?.close();
      this.#child.kill('SIGKILL');
      await exited;
    });
  }

  get qmp(): QmpClient {
    if (this.#qmp === undefined) throw new Error('QEMU is not connected');
    return this.#qmp;
  }

  get ticks(): Tick[] {
    const path = join(this.#folder, 'qemu.serial');
    return existsSync(path) ? parseTicks(readFileSync(path, 'latin1')) : [];
  }

  async untilMoreTicks(count = 2): Promise<void> {
    const wanted = this.ticks.length + count;
    await until(`${wanted} ticks in QEMU`, () => this.ticks.length >= wanted);
  }

  /** Waits until its migration, outgoing or incoming, has ended. @returns the status */
  migrationEnd(): Promise<string> {
    return until('the end of the migration of QEMU', async () => {
      const { status } = await this.qmp.execute<{ status?: string }>('query-migrate');
      return status !== undefined && ['completed', 'failed', 'cancelled'].includes(status) && status;
    });
  }

  async untilEnded(): Promise<void> {
    await until('the end of QEMU', () => this.#hasEnded);
  }

  /** The first bytes of guest memory; the guest should stand still. */
  async saveMemory(lengthBytes: number): Promise<Buffer> {
    const filename = join(this.#folder, 'qemu.memory');
    await this.qmp.execute('pmemsave', { val: 0, size: lengthBytes, filename });
    return readFileSync(filename);
  }

  get #hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }
}
