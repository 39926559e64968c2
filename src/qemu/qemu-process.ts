/**
 * A QEMU of our own: started to wait for a guest that we bring, driven at a monitor of its own, watched to its end.
 *
 * It shares our terminal and our standard streams. To the command of the caller only `-incoming defer` and one more QMP
 * monitor are added, whose socket is in a private folder.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { constants } from 'node:os';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { checkQemuCommand, QemuStartError } from './qemu-command.ts';
import { QmpClient, QmpConnectionError, type QmpEvent } from './qmp-client.ts';

const START_TIMEOUT_MS = 30_000;
const POLL_MS = 2;
/** How long it may take to quit before it is killed. */
const QUIT_TIMEOUT_MS = 5000;

export interface QemuExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** Where a `QemuProcess` finds the socket of its migration, as `migrate-incoming` takes it. */
export const GUEST_URI = 'fd:3';

export class QemuProcess {
  readonly name: string;
  /** Resolves when the process has ended. */
  readonly exited: Promise<QemuExit>;
  readonly #child: ChildProcess;
  #spawnError: Error | undefined;
  #exit: QemuExit | undefined;
  #qmp: QmpClient | undefined;

  /**
   * @param command the program and its arguments
   * @param migrationFd a socket for its migration: it has it as `GUEST_URI`; here it may be closed when this is called
   * @param folder private to us; the socket is gone from it when this resolves
   * @param onEvent gets every event of the monitor
   * @throws {QemuStartError} if it cannot be started, or ends before its monitor answers
   */
  static async start(
    command: readonly string[],
    migrationFd: number,
    folder: string,
    onEvent: (event: QmpEvent) => void,
  ): Promise<QemuProcess> {
    checkQemuCommand(command);
    const path = join(folder, 'qmp');
    const qemu = new QemuProcess(command, migrationFd, path);
    try {
      await qemu.#connect(path, onEvent);
      return qemu;
    } catch (error) {
      await qemu.kill();
      throw error;
    } finally {
      rmSync(path, { force: true });
    }
  }

  private constructor(command: readonly string[], migrationFd: number, qmpPath: string) {
    const [program = '', ...args] = command;
    this.name = basename(program);
    const ours = ['-incoming', 'defer', '-qmp', `unix:${qmpPath.replaceAll(',', ',,')},server=on,wait=off`];
    this.#child = spawn(program, [...args, ...ours], {
      stdio: ['inherit', 'inherit', 'inherit', migrationFd],
    });
    this.exited = new Promise((resolve) => {
      const settle = (exit: QemuExit) => {
        this.#exit = exit;
        resolve(exit);
      };
      this.#child.once('exit', (code, signal) => settle({ code, signal }));
      this.#child.once('error', (error) => {
        this.#spawnError = error;
        settle({ code: null, signal: null });
      });
    });
  }

  get qmp(): QmpClient {
    if (this.#qmp === undefined) throw new Error('QEMU is not connected');
    return this.#qmp;
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** How it ended; undefined while it runs. */
  get exit(): QemuExit | undefined {
    return this.#exit;
  }

  signal(signal: NodeJS.Signals): void {
    if (this.#exit === undefined) this.#child.kill(signal);
  }

  /** Ends it: by a signal it heeds, else by force. May be called twice. */
  async terminate(): Promise<void> {
    this.signal('SIGTERM');
    const hasEnded = this.exited.then(() => true);
    if (await Promise.race([hasEnded, sleep(QUIT_TIMEOUT_MS, false, { ref: false })])) this.#qmp?.close();
    else await this.kill();
  }

  async kill(): Promise<void> {
    this.#qmp?.close();
    this.signal('SIGKILL');
    await this.exited;
  }

  async #connect(path: string, onEvent: (event: QmpEvent) => void): Promise<void> {
    const deadlineMs = performance.now() + START_TIMEOUT_MS;
    for (;;) {
      this.#throwIfEnded();
      try {
        // The socket has its name a moment before anybody listens there.
        if (existsSync(path)) {
          this.#qmp = await QmpClient.connect(`unix:${path}`, { onEvent });
          return;
        }
      } catch (error) {
        if (!(error instanceof QmpConnectionError) || error.failure !== 'refused') {
          this.#throwIfEnded();
          const why = (error as Error).message;
          throw new QemuStartError(`The monitor of ${this.name} does not answer: ${why}`, { cause: error });
        }
      }
      if (performance.now() > deadlineMs) {
        throw new QemuStartError(
          `${this.name} has not opened its monitor within ${START_TIMEOUT_MS / 1000} s`,
        );
      }
      await sleep(POLL_MS);
    }
  }

  #throwIfEnded(): void {
    if (this.#spawnError !== undefined) {
      const { code } = this.#spawnError as NodeJS.ErrnoException;
      const why = code === 'ENOENT' ? 'there is no such program' : this.#spawnError.message;
      throw new QemuStartError(`"${this.#child.spawnfile}" cannot be started: ${why}`);
    }
    if (this.#exit !== undefined) {
      throw new QemuStartError(`${this.name} ended before it took a guest: ${describeExit(this.#exit)}`);
    }
  }
}

/** e.g. `exit code 1`, `signal SIGKILL` */
export function describeExit({ code, signal }: QemuExit): string {
  return signal === null ? `exit code ${code ?? 'unknown'}` : `signal ${signal}`;
}

/** The exit code by which a shell would tell of it. */
export function shellExitCode({ code, signal }: QemuExit): number {
  return signal === null ? (code ?? 1) : 128 + (constants.signals[signal] ?? 0);
}
