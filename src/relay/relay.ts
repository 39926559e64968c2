/**
 * A relay: waits for the source of a migration, connects to its destination, and passes on what they say.
 *
 * The main thread accepts and connects, a thread of its own moves the bytes (relay-loop.ts). A migration has one connection,
 * and in postcopy another one for each recovery. One that comes while the first is alive is of a capability that a relay
 * cannot serve, of a recovery whose old connection is dead, or of a stranger: its first byte tells. Nobody is connected to the
 * destination before he has said something that a source says, since a destination takes one connection only.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Channel } from '../transport/channel.ts';
import { connectChannel } from '../transport/connect.ts';
import { firstByte } from '../transport/first-byte.ts';
import type { TlsOptions } from '../transport/tls-channel.ts';
import { FILE_MAGIC, SectionType } from '../wire/sections.ts';
import { Arrivals } from './arrivals.ts';
import type { LegEnd } from './relay-leg.ts';
import type { RelayReport, RelayState } from './relay-report.ts';
import { RelayThread } from './relay-thread-client.ts';

/** How long a source may take to say its first byte. */
const FIRST_BYTE_MS = 10_000;
/** How long an additional connection may be silent before it is taken for the channel of postcopy-preempt. */
const SILENT_MS = 1000;
/** When a source has opened all connections that it opens at the beginning. */
const SHUT_AFTER_MS = 500;
/** What connections begin with: a migration, its recovery, a channel of multifd. */
const MAGIC_BYTE = FILE_MAGIC >>> 24;
const COMMAND_BYTE = SectionType.COMMAND;
const MULTIFD_BYTE = 0x11;
/** And what TLS begins with. */
const TLS_BYTE = 0x16;

export interface RelayOptions {
  readonly listenUri: string;
  readonly connectUri: string;
  /** Protect the two connections, each for itself: in between it is plain, and checked. Default: nothing does. */
  readonly listenTls?: TlsOptions | undefined;
  readonly connectTls?: TlsOptions | undefined;
  /** Where the main stream is kept. */
  readonly recordPath?: string | undefined;
  /** For the operator: what happens, in words. */
  readonly onMessage: (text: string) => void;
  readonly onState: (state: RelayState) => void;
  /** Told once a second while a migration is under way, if given. */
  readonly onProgress?: ((report: RelayReport) => void) | undefined;
  /** Ends it. */
  readonly signal: AbortSignal;
}

/** How a relay ended. Its report says more. */
export interface RelayEnd {
  readonly report: RelayReport;
  /** Whether a migration has passed whole. */
  readonly isDone: boolean;
}

/**
 * Serves one migration, from its first connection to its end, also over recoveries.
 *
 * @throws {UriError} {TransportError}, and system errors if the recording cannot be opened: nothing was passed on then
 */
export async function relayMigration(options: RelayOptions): Promise<RelayEnd> {
  const thread = await RelayThread.start(options.recordPath);
  try {
    return await new Relay(options, thread).run();
  } finally {
    await thread.close();
  }
}

class Relay {
  readonly #options: RelayOptions;
  readonly #thread: RelayThread;
  readonly #stop = new AbortController();
  /** Resolves with the end of the leg that is under way. */
  #legEnded: Promise<LegEnd & { isPostcopy: boolean }> | undefined;
  #isPostcopy = false;
  /** An additional connection is looked at. */
  #judging: Promise<void> | undefined;
  /** A recovery that came before the relay knew that the connection before it is dead. */
  #next: Channel | undefined;

  constructor(options: RelayOptions, thread: RelayThread) {
    this.#options = options;
    this.#thread = thread;
  }

  async run(): Promise<RelayEnd> {
    const { listenUri, signal, onMessage, onState, onProgress } = this.#options;
    signal.addEventListener('abort', () => this.#stop.abort(signal.reason), { once: true });
    this.#thread.on('message', ({ text }) => onMessage(text));
    this.#thread.on('report', ({ report }) => onProgress?.(report));
    const arrivals = await Arrivals.open(listenUri, { tls: this.#options.listenTls });
    this.#thread.on('package', () => void this.#passPackage(arrivals));
    this.#thread.on('state', ({ state }) => {
      onState(state);
      if (state !== 'postcopy-active') return;
      this.#isPostcopy = true;
      void arrivals.reopen().catch((error: Error) => onMessage(error.message));
    });
    const ticker = setInterval(() => {
      if (this.#legEnded !== undefined && onProgress !== undefined) this.#thread.post({ kind: 'query' });
    }, 1000);
    try {
      onMessage(`waiting for a source at ${arrivals.address}`);
      const isDone = await this.#serve(arrivals);
      return { report: await this.#thread.close(), isDone };
    } finally {
      clearInterval(ticker);
      this.#stop.abort();
      this.#next?.close();
      arrivals.close();
    }
  }

  /** @returns whether the migration has passed whole */
  async #serve(arrivals: Arrivals): Promise<boolean> {
    const { onMessage, signal } = this.#options;
    for (;;) {
      const source = this.#next ?? (await this.#nextSource(arrivals));
      this.#next = undefined;
      if (source === undefined) return false;
      const end = await this.#relay(source, arrivals);
      if (end?.kind === 'done') return true;
      if (signal.aborted) return false;
      const text = end !== undefined && 'text' in end ? end.text : undefined;
      if (text !== undefined) onMessage(text);
      if (!this.#isPostcopy || end?.kind === 'illegal' || end?.kind === 'refused') return false;
      onMessage(`postcopy is interrupted; waiting for its recovery at ${arrivals.address}`);
      await arrivals.reopen();
    }
  }

  /** Waits for a connection that begins as one of a source, of a migration or of its recovery. */
  async #nextSource(arrivals: Arrivals): Promise<Channel | undefined> {
    const { onMessage } = this.#options;
    for (;;) {
      const channel = await arrivals.next(this.#stop.signal);
      if (channel === undefined || !channel.hasReturnPath) return channel;
      const first = await firstByte(channel, FIRST_BYTE_MS, this.#stop.signal);
      if (first === COMMAND_BYTE || (first === MAGIC_BYTE && !this.#isPostcopy)) return channel;
      channel.close();
      if (this.#stop.signal.aborted) return undefined;
      switch (first) {
        case 'closed':
        case 'silent':
          onMessage(`a connection from ${channel.peer} said nothing and was closed`);
          break;
        case MULTIFD_BYTE:
          onMessage(
            'a connection of multifd came instead of the main one; switch the capability "multifd" off on both sides',
          );
          return undefined;
        default:
          onMessage(
            `a connection from ${channel.peer} was refused: ${
              first === MAGIC_BYTE
                ? 'it begins a migration, and one that was interrupted must go on first'
                : first === TLS_BYTE
                  ? 'it is protected by TLS, and here are no credentials (--listen-tls-creds)'
                  : 'it is no migration stream'
            }`,
          );
      }
    }
  }

  /** @returns how the leg ended; undefined if the destination of a recovery could not be reached */
  async #relay(source: Channel, arrivals: Arrivals): Promise<LegEnd | undefined> {
    const { onMessage, connectUri, connectTls, signal } = this.#options;
    onMessage(`source at ${source.peer}`);
    let destination: Channel;
    try {
      destination = await connectChannel(connectUri, { signal, tls: connectTls });
    } catch (error) {
      source.close();
      if (!this.#isPostcopy || signal.aborted) {
        if (signal.aborted) return { kind: 'stopped' };
        throw error;
      }
      onMessage((error as Error).message);
      return undefined;
    }
    const ended = this.#thread.leg(source, destination);
    this.#legEnded = ended;
    const watching = new AbortController();
    const onAbort = () => this.#thread.post({ kind: 'end-leg', end: { kind: 'stopped' } });
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
    const watched = this.#watchExtraConnections(arrivals, watching.signal);
    // A source that opens a connection only with the switch then sees at once that it cannot, and keeps its guest.
    const shutting = setInterval(() => {
      if (!this.#isPostcopy && this.#judging === undefined && arrivals.kept === 0) arrivals.shut();
    }, SHUT_AFTER_MS);
    try {
      const end = await ended;
      this.#isPostcopy = end.isPostcopy;
      if (end.kind === 'done') await Promise.all([source.finished(), destination.finished()]);
      return end;
    } finally {
      this.#legEnded = undefined;
      clearInterval(shutting);
      signal.removeEventListener('abort', onAbort);
      watching.abort();
      await watched;
    }
  }

  /** Looks at every connection that comes while the first is alive. */
  async #watchExtraConnections(arrivals: Arrivals, signal: AbortSignal): Promise<void> {
    while (this.#next === undefined) {
      // A listener with one channel has no more: what is under way does not mind.
      const channel = await arrivals.next(signal).catch(() => undefined);
      if (channel === undefined) return;
      this.#thread.post({ kind: 'hold', isHeld: true });
      this.#judging = this.#judge(channel, signal);
      await this.#judging;
      this.#judging = undefined;
      this.#thread.post({ kind: 'hold', isHeld: false });
    }
  }

  /**
   * With the package the guest leaves the source for good. A source that needs another connection has opened it before, so
   * everyone who has come is looked at first.
   */
  async #passPackage(arrivals: Arrivals): Promise<void> {
    do {
      await (this.#judging ?? sleep(1)); // Whoever has connected is accepted by then.
    } while (this.#legEnded !== undefined && (this.#judging !== undefined || arrivals.kept > 0));
    this.#thread.post({ kind: 'pass-package' });
  }

  async #judge(channel: Channel, signal: AbortSignal): Promise<void> {
    const { onMessage } = this.#options;
    const first = await firstByte(channel, SILENT_MS, signal);
    if (first === COMMAND_BYTE) {
      // The source has given its old connection up, and nobody told us.
      this.#next = channel;
      this.#thread.post({
        kind: 'end-leg',
        end: { kind: 'lost', text: 'the source has begun a recovery over another connection' },
      });
      return;
    }
    channel.close();
    if (signal.aborted) return;
    switch (first) {
      case 'closed':
        onMessage(`a connection from ${channel.peer} said nothing and was closed`);
        return;
      case 'silent':
        this.#refuse(
          'opens a second connection, as postcopy-preempt and some multifd sources do',
          'postcopy-preempt',
        );
        return;
      case MULTIFD_BYTE:
        this.#refuse('sends pages over further connections', 'multifd');
        return;
      default:
        onMessage(`another connection from ${channel.peer} was refused: one migration is under way`);
    }
  }

  #refuse(what: string, capability: string): void {
    const text = `the source ${what}; switch the capability "${capability}" off on both sides`;
    this.#thread.post({ kind: 'end-leg', end: { kind: 'illegal', text } });
  }
}
