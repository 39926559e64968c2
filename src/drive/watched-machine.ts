/**
 * One side of a migration, seen through its monitor: what it says now, what it has said, and whether it still says anything.
 *
 * It is asked again and again, and at once when an event tells of a change. One question is under way at a time: a monitor
 * whose main thread waits for a page of its guest answers none, and QEMU takes only a few before it is deaf to urgent ones too.
 * When the connection ends, it is made again once: that tells a process that has ended from a connection that broke.
 */
import { EventEmitter } from 'node:events';
import { type ExecuteOptions, QmpClient, QmpConnectionError, type QmpEvent } from '../qemu/qmp-client.ts';

export type Side = 'source' | 'destination';

/** The part of `query-migrate` that is used here; all may be absent. Bytes, milliseconds, pages a second. */
export interface MigrateInfo {
  readonly status?: string;
  readonly 'error-desc'?: string;
  readonly 'total-time'?: number;
  readonly downtime?: number;
  readonly 'postcopy-blocktime'?: number;
  readonly 'socket-address'?: readonly unknown[];
  readonly 'x-guest-downtime-us'?: number;
  readonly ram?: {
    readonly transferred: number;
    readonly remaining: number;
    readonly total: number;
    readonly 'page-size'?: number;
    readonly mbps?: number;
    readonly 'dirty-pages-rate'?: number;
    readonly 'dirty-sync-count'?: number;
    readonly 'postcopy-requests'?: number;
    readonly 'precopy-bytes'?: number;
    readonly 'downtime-bytes'?: number;
    readonly 'postcopy-bytes'?: number;
  };
}

const POLL_MS = 200;
/** An answer takes some milliseconds; one that takes longer than this is missing. */
const SILENT_MS = 1000;
const RECONNECT_TIMEOUT_MS = 2000;

interface WatchedMachineEvents {
  /** Something is known that was not. */
  change: [];
  /** A migration state, each once when it is entered. */
  status: [status: string];
  pass: [pass: number];
}

export class WatchedMachine extends EventEmitter<WatchedMachineEvents> {
  readonly side: Side;
  readonly address: string;
  /** The last answer to `query-migrate`, and the last run state. */
  info: MigrateInfo = {};
  runState = 'unknown';
  /** The last migration state, by an event or by `query-migrate`; `none` if there was none. */
  status = 'none';
  /** The guest was seen running here. */
  hasRun = false;
  /** Nobody listens at its address any more: its process has ended. */
  isGone = false;
  #client: QmpClient;
  #question: Promise<void> | undefined;
  #silentSinceMs: number | undefined;
  #isClosed = false;
  #eventCount = 0;
  #poke: () => void = () => {};

  /** @throws {QmpConnectionError} with the side named in its text */
  static async connect(side: Side, address: string): Promise<WatchedMachine> {
    try {
      return new WatchedMachine(side, address, await QmpClient.connect(address));
    } catch (error) {
      if (!(error instanceof QmpConnectionError)) throw error;
      throw new QmpConnectionError(error.failure, `${capitalized(side)}: ${error.message}`, { cause: error });
    }
  }

  private constructor(side: Side, address: string, client: QmpClient) {
    super();
    this.side = side;
    this.address = address;
    this.#client = client;
    this.#listenTo(client);
  }

  get client(): QmpClient {
    return this.#client;
  }

  /** For how long it has owed an answer, at least. */
  get silentMs(): number {
    return this.#silentSinceMs === undefined ? 0 : performance.now() - this.#silentSinceMs;
  }

  /** What is known of it is old. */
  get isSilent(): boolean {
    return this.silentMs > SILENT_MS;
  }

  /** As `QmpClient.execute`. */
  execute<Result = unknown>(
    command: string,
    args: Readonly<Record<string, unknown>> = {},
    options: ExecuteOptions = {},
  ): Promise<Result> {
    return this.#client.execute<Result>(command, args, options);
  }

  /** Asks until `close`. */
  watch(): void {
    void (async () => {
      while (!this.#isClosed && !this.isGone) {
        await this.refresh(POLL_MS);
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, POLL_MS);
          this.#poke = () => {
            clearTimeout(timer);
            resolve();
          };
        });
      }
    })();
  }

  /**
   * Asks how things are, unless an older question is still unanswered; waits for the answer so long. Never fails.
   *
   * @returns whether what is known is of after the call
   */
  async refresh(timeoutMs: number): Promise<boolean> {
    const isFresh = this.#question === undefined;
    this.#question ??= this.#ask().finally(() => {
      this.#question = undefined;
    });
    let timer: NodeJS.Timeout | undefined;
    const isAnswered = await Promise.race([
      this.#question.then(() => true),
      new Promise<boolean>((resolve) => {
        timer = setTimeout(resolve, timeoutMs, false);
      }),
    ]);
    clearTimeout(timer);
    return isFresh && isAnswered && this.#silentSinceMs === undefined;
  }

  /** May be called twice. */
  close(): void {
    this.#isClosed = true;
    this.#poke();
    this.#client.close();
  }

  async #ask(): Promise<void> {
    const askedAtMs = performance.now();
    this.#silentSinceMs ??= askedAtMs;
    const eventCount = this.#eventCount;
    try {
      // In this order: the run state is then of after the migration state, never of before it.
      const info = await this.execute<MigrateInfo>('query-migrate', {}, { timeoutMs: 0 });
      const { status } = await this.execute<{ status: string }>('query-status', {}, { timeoutMs: 0 });
      this.#silentSinceMs = undefined;
      this.info = info;
      // What an event has told in the meantime may be newer; the next question is on its way then.
      if (eventCount === this.#eventCount) {
        this.#setRunState(status);
        if (info.status !== undefined) this.#setStatus(info.status);
      }
      this.emit('change');
    } catch {
      if (!this.#isClosed && this.#client.isClosed) await this.#reconnect();
    }
  }

  async #reconnect(): Promise<void> {
    try {
      const client = await QmpClient.connect(this.address, { greetingTimeoutMs: RECONNECT_TIMEOUT_MS });
      if (this.#isClosed) {
        client.close();
        return;
      }
      this.#client = client;
      this.#listenTo(client);
      this.#poke();
    } catch (error) {
      const cause = (error as Error).cause as NodeJS.ErrnoException | undefined;
      this.isGone = cause?.code === 'ECONNREFUSED' || cause?.code === 'ENOENT';
      this.emit('change');
    }
  }

  #listenTo(client: QmpClient): void {
    client.on('event', (event) => this.#heed(event));
    client.on('close', () => this.#poke());
  }

  #heed({ event, data }: QmpEvent): void {
    if (event === 'MIGRATION') this.#setStatus(String(data?.['status']));
    else if (event === 'MIGRATION_PASS') this.emit('pass', Number(data?.['pass']));
    else if (event === 'RESUME') this.#setRunState('running');
    else if (event !== 'STOP') return;
    this.#eventCount++;
    this.#poke();
  }

  #setStatus(status: string): void {
    if (status === this.status) return;
    // A destination of 7.2 says so when it listens again; it is paused still.
    if (status === 'setup' && this.status.startsWith('postcopy-')) return;
    this.status = status;
    this.emit('status', status);
    this.emit('change');
  }

  #setRunState(runState: string): void {
    this.runState = runState;
    if (runState === 'running') this.hasRun = true;
  }
}

function capitalized(word: string): string {
  return word.charAt(0).toUpperCase() + word.slice(1);
}
