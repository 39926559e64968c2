/**
 * What a benchmark is: a name, and a run that gives figures. `main.ts` runs them, test/bench/ runs them tiny.
 *
 * Each compares two things in one run where a claim is made: with and without, ours and the least that can be.
 */

/** Tiny runs prove that a benchmark works; their figures say nothing. */
export type Scale = 'full' | 'tiny';

/** Figures by name; the last word of a name is its unit. */
export interface Figures {
  readonly [name: string]: number | string | Figures | readonly number[];
}

export interface Benchmark {
  readonly name: string;
  /** One sentence: what is measured, and against what. */
  readonly about: string;
  /** What is missing on this host for it, undefined if nothing is. */
  whyNot?(): string | undefined;
  run(scale: Scale): Promise<Figures>;
}

export const MIB = 2 ** 20;

/** Nearest-rank percentiles of samples that are all kept. */
export function percentiles(
  samples: readonly number[],
): Record<'p50' | 'p90' | 'p99' | 'p99.9' | 'max', number> {
  const sorted = [...samples].sort((a, b) => a - b);
  const at = (percent: number) =>
    sorted[Math.max(0, Math.ceil((percent / 100) * sorted.length) - 1)] ?? Number.NaN;
  return { p50: at(50), p90: at(90), p99: at(99), 'p99.9': at(99.9), max: at(100) };
}

/** Rounds to three significant digits: more would claim more than a run can know. */
export function rounded(value: number): number {
  return Number(value.toPrecision(3));
}
