/**
 * A distribution of latencies, at a cost that does not show on the path it measures.
 */
import { createHistogram, type RecordableHistogram } from 'node:perf_hooks';
import type { LatencySummary } from './migration-info.ts';

const MAX_US = 600_000_000;

export class LatencyRecorder {
  readonly #histogram: RecordableHistogram = createHistogram({ lowest: 1, highest: MAX_US, figures: 3 });

  /** @param us rounded to whole microseconds, at least 1 */
  record(us: number): void {
    this.#histogram.record(Math.min(MAX_US, Math.max(1, Math.round(us))));
  }

  /** @returns undefined if nothing was recorded */
  summary(): LatencySummary | undefined {
    const histogram = this.#histogram;
    if (histogram.count === 0) return undefined;
    return {
      count: histogram.count,
      min: histogram.min,
      mean: Math.round(histogram.mean * 10) / 10,
      p50: histogram.percentile(50),
      p90: histogram.percentile(90),
      p99: histogram.percentile(99),
      'p99.9': histogram.percentile(99.9),
      max: histogram.max,
    };
  }
}
