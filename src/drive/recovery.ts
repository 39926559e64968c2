/**
 * Brings a migration that is paused in postcopy to life again, when the network is back.
 *
 *   both sides must have noticed      migrate-pause at the one that has not
 *   the destination listens again     migrate-recover URI
 *   the source connects again         migrate URI, resume: true
 *   both are in postcopy-active       it goes on where it was; else from the top, after a pause of 1, 2, 4, … 30 s
 *
 * The commands for the destination are urgent ones: its main thread may be waiting for a page that only the source has.
 */
import { QmpCommandError } from '../qemu/qmp-client.ts';
import { formatMs } from '../telemetry/format.ts';
import { isEnded, isRecovering } from './stages.ts';
import type { WatchedMachine } from './watched-machine.ts';

const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 30_000;
/** How long an attempt that is under way may take before it is broken off, if the machine can do that. */
const ATTEMPT_MS = 15_000;
/** How long the source may stay paused after it was told to connect: some versions do not tell that it has failed. */
const CONNECT_MS = 3000;
const COMMAND_TIMEOUT_MS = 5000;
/** How long a side may take to notice by itself that its connection is lost. */
const NOTICE_MS = 1000;

export type RecoveryEnd =
  /** Pages come again, or all have come. */
  | { readonly kind: 'recovered' }
  | { readonly kind: 'interrupted' }
  | { readonly kind: 'given-up'; readonly why: string };

export interface RecoveryOptions {
  readonly source: WatchedMachine;
  readonly destination: WatchedMachine;
  readonly limitMs: number;
  /** How long a side may take to notice by itself that its connection is lost; a second unless given. */
  readonly noticeMs?: number;
  /** Why it cannot be done at all, if so. */
  readonly whyNot: string | undefined;
  /** Where the destination shall listen; a new address each time, if it need not be one that others know. */
  listenUri(): string;
  /** What the source is then told. */
  connectUri(listenUri: string): string;
  isInterrupted(): boolean;
  onLine(text: string): void;
  /** Resolves when something has changed, or the time is over. */
  untilChange(timeoutMs: number): Promise<void>;
}

/** The pause before each attempt but the first. */
export function pauseMs(failures: number): number {
  return Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** Math.max(0, failures - 1));
}

export async function recover(options: RecoveryOptions): Promise<RecoveryEnd> {
  const { source, destination, limitMs, whyNot, onLine } = options;
  if (whyNot !== undefined) return { kind: 'given-up', why: whyNot };
  const endsAtMs = performance.now() + limitMs;
  const attempts = new Attempts(options);
  for (;;) {
    if (options.isInterrupted()) return { kind: 'interrupted' };
    for (const machine of [source, destination]) {
      if (machine.isGone) return { kind: 'given-up', why: `the ${machine.side}'s process has ended` };
    }
    if (isEnded(source.status)) return { kind: 'recovered' };
    if (source.status === 'postcopy-active' && goesOn(destination)) return { kind: 'recovered' };
    if (performance.now() >= endsAtMs) {
      const last =
        attempts.lastFailure === undefined ? '' : ` (the last attempt that failed: ${attempts.lastFailure})`;
      return { kind: 'given-up', why: `it has not come to life within ${formatMs(limitMs)}${last}` };
    }

    const isDue = await attempts.step();
    if (attempts.news !== undefined) onLine(attempts.news);
    await options.untilChange(Math.min(isDue, Math.max(0, endsAtMs - performance.now())));
  }
}

function goesOn({ status }: WatchedMachine): boolean {
  return status === 'postcopy-active' || status === 'completed';
}

/** The attempts to recover: which is under way, and how the last one failed. */
class Attempts {
  lastFailure: string | undefined;
  /** Something to tell since the last step. */
  news: string | undefined;
  readonly #options: RecoveryOptions;
  readonly #beganToRecoverAtMs = performance.now();
  #failures = 0;
  #nextAtMs = 0;
  /** Since when the attempt under way has been. */
  #beganAtMs: number | undefined;
  /** Where the destination was told to listen last. */
  #listenUri: string | undefined;

  constructor(options: RecoveryOptions) {
    this.#options = options;
  }

  /** Does what is due. @returns when to look again at the latest, in milliseconds from now */
  async step(): Promise<number> {
    const { source, destination } = this.#options;
    this.news = undefined;
    const now = performance.now();
    if (isRecovering(source.status) || isRecovering(destination.status)) {
      this.#beganAtMs ??= now;
      if (now - this.#beganAtMs < ATTEMPT_MS) return 1000;
      await this.#breakOff();
      return 1000;
    }
    if (this.#beganAtMs !== undefined) {
      if (now - this.#beganAtMs < CONNECT_MS) return 200;
      this.#fail(source.info['error-desc'] ?? 'the source has not reached the destination');
    }
    if (now < this.#nextAtMs) return this.#nextAtMs - now;
    try {
      if (!(await this.#haveBothNoticed())) return 500;
      await this.#attempt();
    } catch (error) {
      this.#fail((error as Error).message);
    }
    return 200;
  }

  /** A side whose connection broke may not know it: nothing came that would tell. */
  async #haveBothNoticed(): Promise<boolean> {
    const { source, destination } = this.#options;
    for (const [machine, other] of [
      [source, destination],
      [destination, source],
    ] as const) {
      if (machine.status !== 'postcopy-active' || other.status !== 'postcopy-paused') continue;
      const { noticeMs = NOTICE_MS } = this.#options;
      if (performance.now() - this.#beganToRecoverAtMs >= noticeMs) await pause(machine);
      return false;
    }
    return source.status === 'postcopy-paused' && destination.status === 'postcopy-paused';
  }

  async #attempt(): Promise<void> {
    const { source, destination } = this.#options;
    this.#beganAtMs = performance.now();
    const uri = await this.#listen(destination);
    const target = this.#options.connectUri(uri);
    this.news = `attempt ${this.#failures + 1}: the destination listens, the source connects to ${target}`;
    await source.execute('migrate', { uri: target, resume: true }, { timeoutMs: COMMAND_TIMEOUT_MS });
  }

  /** @returns where it listens now */
  async #listen(destination: WatchedMachine): Promise<string> {
    const uri = this.#options.listenUri();
    try {
      await destination.execute(
        'migrate-recover',
        { uri },
        { timeoutMs: COMMAND_TIMEOUT_MS, isUrgent: true },
      );
    } catch (error) {
      // It listens since the last attempt: some versions take the command once each time that the migration is paused.
      const isListening = error instanceof QmpCommandError && /triggered already/.test(error.message);
      if (!isListening || this.#listenUri === undefined) throw error;
      return this.#listenUri;
    }
    this.#listenUri = uri;
    return uri;
  }

  async #breakOff(): Promise<void> {
    this.#fail(`the attempt has not come to an end within ${ATTEMPT_MS / 1000} s`);
    for (const machine of [this.#options.source, this.#options.destination]) {
      // Versions before 9.1 refuse: the attempt then ends when its connection does.
      if (isRecovering(machine.status)) await pause(machine);
    }
  }

  #fail(why: string): void {
    this.#beganAtMs = undefined;
    this.#failures++;
    this.lastFailure = why;
    const waitMs = pauseMs(this.#failures);
    this.#nextAtMs = performance.now() + waitMs;
    this.news = `attempt ${this.#failures} has failed: ${why}; the next one in ${waitMs / 1000} s`;
  }
}

/** Makes a side give its connection up. One that refuses has done so already, or cannot. */
async function pause(machine: WatchedMachine): Promise<void> {
  try {
    await machine.execute('migrate-pause', {}, { timeoutMs: COMMAND_TIMEOUT_MS, isUrgent: true });
  } catch (error) {
    if (!(error instanceof QmpCommandError)) throw error;
  }
}

/** What an operator types when the network is back: a line for each side, for people and for programs. */
export function howToRecover(listenUri: string, connectUri: string): string[] {
  const qmp = (execute: string, args: object) => JSON.stringify({ execute, arguments: args });
  return [
    'Keep both processes: each has pages that the other lacks. When the network is back, by hand:',
    `  destination:  (qemu) migrate_recover ${listenUri}`,
    `        or QMP  ${qmp('migrate-recover', { uri: listenUri })}`,
    `  source:       (qemu) migrate -r ${connectUri}`,
    `        or QMP  ${qmp('migrate', { uri: connectUri, resume: true })}`,
  ];
}
