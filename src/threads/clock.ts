/**
 * One clock for all threads: CLOCK_MONOTONIC in milliseconds, with microseconds behind the point.
 *
 * `performance.now()` is as quick as a clock can be read here, but counts from the start of its own thread.
 */

const originMs = measureOriginMs();

export function monotonicMs(): number {
  return originMs + performance.now();
}

/** Reads both clocks close together: the first calls in a thread are slow, the quickest of some is exact to a microsecond. */
function measureOriginMs(): number {
  let best = { originMs: 0, gapMs: Number.POSITIVE_INFINITY };
  for (let attempt = 0; attempt < 10; attempt++) {
    const beforeMs = performance.now();
    const monotonicNs = process.hrtime.bigint();
    const gapMs = performance.now() - beforeMs;
    if (gapMs < best.gapMs) best = { originMs: Number(monotonicNs) / 1e6 - beforeMs - gapMs / 2, gapMs };
  }
  return best.originMs;
}
