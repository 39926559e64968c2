/**
 * When a migration is told to switch to postcopy: after a time, or when precopy gets nowhere. It is told once.
 */
import { QmpCommandError } from '../qemu/qmp-client.ts';
import { formatMs } from '../telemetry/format.ts';
import { judgeConvergence, type Round } from './judge-convergence.ts';
import type { MigrateInfo, WatchedMachine } from './watched-machine.ts';

/** When to switch to postcopy. `afterMs` counts from the start of the migration. */
export type SwitchPlan =
  | { readonly kind: 'never' }
  | { readonly kind: 'auto' }
  | { readonly kind: 'after'; readonly afterMs: number };

export interface SwitchRequest {
  readonly why: string;
  /** Since the start of the migration. */
  readonly atMs: number;
}

export class PostcopySwitch {
  /** The switch, once it has been asked for: it may happen at any moment from then on. */
  asked: SwitchRequest | undefined;
  readonly #plan: SwitchPlan;
  readonly #downtimeLimitMs: number;
  readonly #rounds: Round[] = [];

  constructor(plan: SwitchPlan, downtimeLimitMs: number) {
    this.#plan = plan;
    this.#downtimeLimitMs = downtimeLimitMs;
  }

  /** @returns why to switch now; undefined if that is not due. To be asked while the source is `active` */
  isDue(info: MigrateInfo, atMs: number): string | undefined {
    if (this.asked !== undefined) return undefined;
    if (this.#plan.kind === 'after') {
      return atMs >= this.#plan.afterMs ? `it was to be after ${formatMs(this.#plan.afterMs)}` : undefined;
    }
    if (this.#plan.kind === 'never') return undefined;
    this.#noteRound(info);
    const judgement = judgeConvergence(this.#rounds, this.#downtimeLimitMs);
    return judgement.verdict === 'switch' ? judgement.why : undefined;
  }

  /** @returns why the source refuses, if it does. @throws {QmpConnectionError} */
  async ask(source: WatchedMachine, request: SwitchRequest): Promise<string | undefined> {
    this.asked = request;
    try {
      await source.execute('migrate-start-postcopy');
      return undefined;
    } catch (error) {
      if (!(error instanceof QmpCommandError)) throw error;
      return error.message;
    }
  }

  #noteRound({ ram }: MigrateInfo): void {
    const pass = ram?.['dirty-sync-count'];
    if (ram === undefined || pass === undefined || pass === 0 || pass === this.#rounds.at(-1)?.pass) return;
    this.#rounds.push({
      pass,
      remainingBytes: ram.remaining,
      dirtyBytesPerSecond: (ram['dirty-pages-rate'] ?? 0) * (ram['page-size'] ?? 4096),
      bytesPerSecond: bytesPerSecond(ram),
    });
  }
}

/** What the stream carries now. */
export function bytesPerSecond(ram: NonNullable<MigrateInfo['ram']>): number {
  return ((ram.mbps ?? 0) * 1e6) / 8;
}
