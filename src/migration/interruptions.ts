/**
 * How often a postcopy was interrupted and recovered, and for how long.
 */
import type { MigrationInfo } from './migration-info.ts';

export class Interruptions {
  #count = 0;
  #recoveries = 0;
  #totalMs = 0;
  #lastAtMs = Number.NaN;
  #isInterrupted = false;

  get recoveries(): number {
    return this.#recoveries;
  }

  /** The connection is lost. A recovery that fails belongs to the interruption that it was to end. */
  began(nowMs: number): void {
    if (this.#isInterrupted) return;
    this.#isInterrupted = true;
    this.#count++;
    this.#lastAtMs = nowMs;
  }

  /** Pages come again. @returns how long they have not, in milliseconds */
  ended(nowMs: number): number {
    this.#isInterrupted = false;
    this.#recoveries++;
    this.#totalMs += nowMs - this.#lastAtMs;
    return nowMs - this.#lastAtMs;
  }

  /** @returns nothing if there was none */
  info(startedAtMs: number, nowMs: number): Pick<MigrationInfo, 'x-interruptions'> {
    if (this.#count === 0) return {};
    const totalMs = this.#totalMs + (this.#isInterrupted ? nowMs - this.#lastAtMs : 0);
    return {
      'x-interruptions': {
        count: this.#count,
        recovered: this.#recoveries,
        'total-ms': Math.round(totalMs),
        'last-at-ms': Math.round(this.#lastAtMs - startedAtMs),
      },
    };
  }
}
