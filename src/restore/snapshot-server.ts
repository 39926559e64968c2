/**
 * Serves a snapshot to restores on other hosts: device state, and the pages that they ask for.
 *
 * Each connection is a session with a thread of its own, the source of a postcopy that is pulled. The file is read by all of
 * them and written by none; once it has changed under our hands no session can go on.
 */
import { fstatSync } from 'node:fs';
import type { MigrationInfo } from '../migration/migration-info.ts';
import type { MigrationStatus } from '../migration/states.ts';
import type { Snapshot } from '../snapshot/snapshot.ts';
import { formatBytes, formatCount, formatMs } from '../telemetry/format.ts';
import type { Channel } from '../transport/channel.ts';
import { listenChannel } from '../transport/listen.ts';
import type { Listener } from '../transport/listener.ts';
import type { TlsOptions } from '../transport/tls-channel.ts';
import { SnapshotSource } from './snapshot-source.ts';

/** A client that has not taken the device state by then only holds a place. */
export const HANDOVER_TIMEOUT_MS = 60_000;
const FILE_CHECK_MS = 1000;
/** accept(2) failed, for want of descriptors for example. */
const ACCEPT_RETRY_MS = 500;

export interface SnapshotServerOptions {
  /** Stays the caller's, and must stay open until the server is closed. */
  readonly snapshot: Snapshot;
  /** `tcp:HOST:PORT` or `unix:PATH`. */
  readonly uri: string;
  readonly maxSessions: number;
  /** Protects the connections. Default: nothing does. */
  readonly tls?: TlsOptions | undefined;
  /** Told who comes and goes, in words for an operator. */
  readonly onMessage: (text: string) => void;
  /** Told of every session that has ended. */
  readonly onReport?: (report: SessionReport) => void;
}

/** What a session came to. */
export interface SessionReport {
  readonly peer: string;
  /** `served`: the client has what it wanted. */
  readonly outcome: 'served' | 'lost' | 'ended-here';
  /** Why, unless it was served. */
  readonly reason: string | undefined;
  readonly 'duration-ms': number;
  /** Pages that were asked for one by one, mostly because a guest waited for them; and in ranges, ahead of it. */
  readonly 'demanded-pages': number;
  readonly 'read-ahead-pages': number;
  readonly 'sent-bytes': number;
}

export class SnapshotServer {
  /** The URI really bound: with the port when 0 was asked for. */
  readonly address: string;
  readonly #options: SnapshotServerOptions;
  readonly #listener: Listener;
  readonly #sessions = new Set<Session>();
  readonly #state: string;
  readonly #fileCheck: NodeJS.Timeout;
  #isClosed = false;

  /** @throws {TransportError} */
  static async start(options: SnapshotServerOptions): Promise<SnapshotServer> {
    return new SnapshotServer(options, await listenChannel(options.uri, { tls: options.tls }));
  }

  private constructor(options: SnapshotServerOptions, listener: Listener) {
    this.#options = options;
    this.#listener = listener;
    this.address = listener.address;
    this.#state = stateOf(options.snapshot);
    this.#fileCheck = setInterval(() => this.#checkFile(), FILE_CHECK_MS);
    void this.#acceptAll();
  }

  /** Ends all sessions and frees the address. May be called twice. */
  async close(): Promise<void> {
    this.#isClosed = true;
    clearInterval(this.#fileCheck);
    this.#listener.close();
    await Promise.all([...this.#sessions].map((session) => session.end('the server was told to end')));
  }

  async #acceptAll(): Promise<void> {
    while (!this.#isClosed) {
      try {
        this.#receive(await this.#listener.accept());
      } catch (error) {
        if (this.#isClosed) return;
        this.#options.onMessage((error as Error).message);
        await new Promise((resolve) => setTimeout(resolve, ACCEPT_RETRY_MS));
      }
    }
  }

  /** Nothing here waits: whoever comes next must find an `accept` that does. */
  #receive(channel: Channel): void {
    const { snapshot, maxSessions, onMessage, onReport } = this.#options;
    const { peer } = channel;
    const why = this.#whyRefused();
    if (why !== undefined) {
      channel.close();
      onMessage(`${peer} was refused: ${why}`);
      return;
    }
    let session: Session;
    try {
      session = new Session(snapshot, channel, (report) => {
        this.#sessions.delete(session);
        onMessage(formatSession(report));
        onReport?.(report);
      });
    } catch (error) {
      channel.close();
      onMessage(`${peer} was refused: ${(error as Error).message}`);
      return;
    }
    this.#sessions.add(session);
    onMessage(`${peer} has connected, ${this.#sessions.size} of at most ${maxSessions}`);
  }

  #whyRefused(): string | undefined {
    const { maxSessions } = this.#options;
    if (this.#sessions.size >= maxSessions) return `there are ${maxSessions} sessions already`;
    return this.#hasFileChanged() ? this.#changedText : undefined;
  }

  #checkFile(): void {
    if (this.#sessions.size === 0 || !this.#hasFileChanged()) return;
    for (const session of this.#sessions) void session.end(this.#changedText);
  }

  #hasFileChanged(): boolean {
    return stateOf(this.#options.snapshot) !== this.#state;
  }

  get #changedText(): string {
    return `"${this.#options.snapshot.path}" has changed since it was opened; start this server again`;
  }
}

/** One client. */
class Session {
  readonly #peer: string;
  readonly #source: SnapshotSource;
  readonly #onEnd: (report: SessionReport) => void;
  readonly #startedAtMs = performance.now();
  readonly #handover: NodeJS.Timeout;
  #ending: Promise<void> | undefined;

  constructor(snapshot: Snapshot, channel: Channel, onEnd: (report: SessionReport) => void) {
    this.#peer = channel.peer;
    this.#onEnd = onEnd;
    this.#source = new SnapshotSource(snapshot, channel, {
      isFull: false,
      maxBytesPerSecond: 0,
      pushFirst: [],
      quietBeforePushMs: 0,
      recording: undefined,
      isPulled: true,
    });
    this.#source.on('status', (status, error) => this.#heed(status, error));
    this.#handover = setTimeout(
      () => void this.end('it has not taken the device state'),
      HANDOVER_TIMEOUT_MS,
    );
  }

  /** Ends it from here. */
  end(reason: string): Promise<void> {
    return this.#end('ended-here', reason);
  }

  #heed(status: MigrationStatus, error: string | undefined): void {
    if (status === 'postcopy-active') clearTimeout(this.#handover);
    else if (status === 'completed') void this.#end('served', undefined);
    else if (status === 'failed' || status === 'postcopy-paused') void this.#end('lost', error);
  }

  #end(outcome: SessionReport['outcome'], reason: string | undefined): Promise<void> {
    this.#ending ??= this.#close(outcome, reason);
    return this.#ending;
  }

  async #close(outcome: SessionReport['outcome'], reason: string | undefined): Promise<void> {
    clearTimeout(this.#handover);
    const durationMs = performance.now() - this.#startedAtMs;
    await this.#source.close();
    const info = await this.#source.query();
    this.#onEnd({ peer: this.#peer, outcome, reason, 'duration-ms': durationMs, ...countsOf(info) });
  }
}

function countsOf(info: MigrationInfo | undefined) {
  const bytes = info?.['x-bytes'];
  return {
    'demanded-pages': info?.['x-pages-demanded'] ?? 0,
    'read-ahead-pages': info?.['x-pages-read-ahead'] ?? 0,
    'sent-bytes':
      bytes === undefined ? 0 : bytes.pages + bytes['zero-pages'] + bytes.commands + bytes.devices,
  };
}

/** e.g. `tcp:10.0.0.7:51234 has what it wanted, after 3.2 s: 120 pages one by one, 2 000 in ranges; 8.3 MiB` */
export function formatSession(report: SessionReport): string {
  const { peer, outcome, reason } = report;
  const what = { served: 'has what it wanted', lost: 'is gone', 'ended-here': 'was sent away' }[outcome];
  const pages =
    `${formatCount(report['demanded-pages'])} pages one by one, ` +
    `${formatCount(report['read-ahead-pages'])} in ranges; ${formatBytes(report['sent-bytes'])}`;
  const why = reason === undefined ? '' : ` (${reason})`;
  return `${peer} ${what}, after ${formatMs(report['duration-ms'])}${why}: ${pages}`;
}

/** What changes when somebody writes to the file. */
function stateOf({ fd }: Snapshot): string {
  const { size, mtimeNs } = fstatSync(fd, { bigint: true });
  return `${size} ${mtimeNs}`;
}
