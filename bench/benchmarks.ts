/**
 * All benchmarks, in the order in which they run.
 */
import type { Benchmark } from './bench.ts';
import { cleanPass } from './clean-pass.ts';
import { dirtyTracking } from './dirty-tracking.ts';
import { downtime } from './downtime.ts';
import { faultLatency } from './fault-latency.ts';
import { memory } from './memory.ts';
import { precopyThroughput } from './precopy-throughput.ts';
import { relay } from './relay.ts';
import { restore } from './restore.ts';
import { save } from './save.ts';
import { tls } from './tls.ts';

export const BENCHMARKS: readonly Benchmark[] = [
  faultLatency,
  downtime,
  precopyThroughput,
  relay,
  tls,
  cleanPass,
  memory,
  dirtyTracking,
  restore,
  save,
];
