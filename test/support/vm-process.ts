/**
 * `postcopy run` as a process of a test: driven at its QMP socket, watched at its serial console and in /proc.
 *
 * POSTCOPY_BIN names another program to test, an installed package for example.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { MigrationInfo } from '../../src/migration/migration-info.ts';
import { atEnd } from './cleanup.ts';
import { QmpClient } from './qmp-client.ts';
import { parseTicks, type Tick } from './ticks.ts';
import { inTime, until } from './until.ts';

const PROGRAM =
  process.env['POSTCOPY_BIN'] ?? fileURLToPath(new URL('../../../bin/postcopy.js', import.meta.url));

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/**
 * Starts the program with these arguments; whatever is left of it ends with the test.
 *
 * @param within a command that becomes the program that its arguments name: `ip netns exec host-a`
 */
export function spawnProgram(
  t: TestContext,
  args: readonly string[],
  within: readonly string[] = [],
): ChildProcess & { exit: Promise<Exit> } {
  const [command = process.execPath, ...words] = [...within, process.execPath, PROGRAM, ...args];
  const child = spawn(command, words, { stdio: ['pipe', 'pipe', 'pipe'] });
  const exit = new Promise<Exit>((resolve) => {
    child.once('close', (code, signal) => resolve({ code, signal }));
  });
  atEnd(t, async () => {
    child.kill('SIGKILL');
    await exit;
  });
  return Object.assign(child, { exit });
}

/** Runs the program to its end. */
export async function runProgram(
  t: TestContext,
  args: readonly string[],
): Promise<Exit & { stdout: string; stderr: string }> {
  const child = spawnProgram(t, args);
  const texts = { stdout: '', stderr: '' };
  child.stdout?.on('data', (bytes) => (texts.stdout += bytes));
  child.stderr?.on('data', (bytes) => (texts.stderr += bytes));
  child.stdin?.end();
  return { ...(await inTime(`the end of "${args.join(' ')}"`, child.exit, () => texts.stderr)), ...texts };
}

export class VmProcess {
  readonly name: string;
  readonly folder: string;
  /** What the process wrote to standard error. */
  stderr = '';
  readonly #child: ReturnType<typeof spawnProgram>;
  readonly #serialPath: string;
  readonly #qmpPath: string;
  #exit: Exit | undefined;
  #qmp: QmpClient | undefined;

  /**
   * Starts a machine and connects to its QMP socket.
   *
   * @param name of files in `folder`, and in messages
   * @param args beside those for consoles and events
   * @param within see `spawnProgram`
   */
  static async start(
    t: TestContext,
    folder: string,
    name: string,
    args: readonly string[],
    within: readonly string[] = [],
  ): Promise<VmProcess> {
    const vm = new VmProcess(t, folder, name, args, within);
    vm.#qmp = await vm.connectQmp();
    return vm;
  }

  private constructor(
    t: TestContext,
    folder: string,
    name: string,
    args: readonly string[],
    within: readonly string[],
  ) {
    this.name = name;
    this.folder = folder;
    this.#serialPath = join(folder, `${name}.serial`);
    this.#qmpPath = join(folder, `${name}.qmp`);
    const consoles = ['--qmp', `unix:${this.#qmpPath}`, '--serial', `file:${this.#serialPath}`];
    this.#child = spawnProgram(t, ['run', ...consoles, '--capability', 'events=on', ...args], within);
    this.#child.stdout?.resume();
    this.#child.stderr?.on('data', (bytes) => (this.stderr += bytes));
    void this.#child.exit.then((exit) => (this.#exit = exit));
    atEnd(t, () => this.#qmp?.close());
  }

  /** Waits until it has said something at standard error: what a monitor tells may be here before. */
  async untilSaid(pattern: RegExp): Promise<void> {
    await until(
      `${this.name} to say ${pattern}`,
      () => pattern.test(this.stderr),
      () => this.describe(),
    );
  }

  /** One more QMP connection. The caller closes it, or the end of the process does. */
  connectQmp(): Promise<QmpClient> {
    return QmpClient.connect(this.#qmpPath, () => this.#exit && `the process has ended\n${this.describe()}`);
  }

  get qmp(): QmpClient {
    if (this.#qmp === undefined) throw new Error(`${this.name} is not connected`);
    return this.#qmp;
  }

  get pid(): number {
    return this.#child.pid as number;
  }

  // ---- guest -----------------------------------------------------------------------------------------------

  /** What the guest wrote to its serial console here. */
  get console(): string {
    return existsSync(this.#serialPath) ? readFileSync(this.#serialPath, 'utf8') : '';
  }

  get ticks(): Tick[] {
    return parseTicks(this.console);
  }

  /** Waits until the guest has written so many lines here. */
  async untilTicks(count: number): Promise<void> {
    await until(
      `${count} ticks at ${this.name}`,
      () => this.ticks.length >= count,
      () => this.describe(),
    );
  }

  /** Waits until the guest has gone on by some lines from now. */
  untilMoreTicks(count = 2): Promise<void> {
    return this.untilTicks(this.ticks.length + count);
  }

  async runState(): Promise<string> {
    return (await this.qmp.execute<{ status: string }>('query-status')).status;
  }

  // ---- migration -------------------------------------------------------------------------------------------

  info(): Promise<MigrationInfo> {
    return this.qmp.execute<MigrationInfo>('query-migrate');
  }

  /** Where a destination waits. */
  async address(): Promise<string> {
    const [address] = (await this.info())['socket-address'] ?? [];
    if (address === undefined) throw new Error(`${this.name} waits for no migration`);
    return address;
  }

  async set(parameters: Readonly<Record<string, number>>): Promise<void> {
    await this.qmp.execute('migrate-set-parameters', parameters);
  }

  async migrate(uri: string): Promise<void> {
    await this.qmp.execute('migrate', { uri });
  }

  /** Waits for a status, as an event or in `query-migrate`; another end fails at once. */
  async untilStatus(...wanted: readonly string[]): Promise<void> {
    await until(
      `status "${wanted.join('" or "')}" at ${this.name}`,
      async () => {
        const seen = this.qmp.migrationStatuses;
        if (wanted.includes(seen.at(-1) ?? '')) return true;
        if (seen.some((status) => wanted.includes(status))) return true;
        const { status = 'none' } = await this.info();
        if (wanted.includes(status)) return true;
        if (['failed', 'completed', 'cancelled', 'postcopy-paused'].includes(status)) {
          throw new Error(`The migration ended as "${status}" at ${this.name}\n${this.describe()}`);
        }
        return false;
      },
      () => this.describe(),
    );
  }

  // ---- process ---------------------------------------------------------------------------------------------

  async untilExit(): Promise<Exit> {
    return await inTime(`the end of ${this.name}`, this.#child.exit, () => this.describe());
  }

  async quit(): Promise<Exit> {
    this.qmp.post('quit');
    return await this.untilExit();
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** Memory the process has resident now, and the most it ever had, in bytes. */
  get residentBytes(): { now: number; peak: number } {
    const status = readFileSync(`/proc/${this.pid}/status`, 'utf8');
    const bytesOf = (name: string) =>
      Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1]) * 1024;
    return { now: bytesOf('VmRSS'), peak: bytesOf('VmHWM') };
  }

  /** The processor time the process has used, in clock ticks of the kernel (100 a second). */
  get cpuTicks(): number {
    const fields = readFileSync(`/proc/${this.pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
    return Number(fields[11]) + Number(fields[12]);
  }

  /** What is known of the process, for the message of a failed test. */
  describe(): string {
    const exit = this.#exit === undefined ? 'runs' : `ended with ${this.#exit.code ?? this.#exit.signal}`;
    const ticks = this.ticks.map(({ tick }) => tick);
    const events = this.#qmp?.eventNames ?? [];
    return `${this.name} ${exit}; events: ${events.join(', ')}; ticks: ${ticks[0]}…${ticks.at(-1)}; it wrote:\n${this.stderr}`;
  }
}
