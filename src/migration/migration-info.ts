/**
 * What `query-migrate` answers: QEMU's names and units, and ours with an `x-` in front.
 *
 * Fields are absent when they do not apply. The three times that are easily taken for each other:
 *   total-time            start of the migration to its end, on this side
 *   downtime              how long this side knows the guest stood still (source: until the device state was out)
 *   x-guest-downtime-us   last guest instruction at the source to the first at the destination (destination only)
 *   x-resident-ms         first guest instruction at the destination until no page was missing any more (destination only)
 */
import type { MigrationStatus, PostcopyIncomingState } from './states.ts';

export interface MigrationRamInfo {
  /** Bytes sent or received for RAM, record headers included. */
  transferred: number;
  /** Bytes of guest memory not sent yet. */
  remaining: number;
  /** Bytes of guest memory. */
  total: number;
  /** Zero pages sent or received without data. */
  duplicate: number;
  /** Pages sent or received with their data. */
  normal: number;
  'normal-bytes': number;
  /** Pages the guest dirtied per second during the last pass. */
  'dirty-pages-rate': number;
  /** Megabits per second, of the last second or of the whole if it is over. */
  mbps: number;
  'dirty-sync-count': number;
  /** Requests for pages, received or sent. */
  'postcopy-requests': number;
  'page-size': number;
  'pages-per-second': number;
  'precopy-bytes': number;
  'downtime-bytes': number;
  'postcopy-bytes': number;
}

/** A distribution of latencies, microseconds. */
export interface LatencySummary {
  count: number;
  min: number;
  mean: number;
  p50: number;
  p90: number;
  p99: number;
  'p99.9': number;
  max: number;
}

export interface MigrationInfo {
  status?: MigrationStatus;
  'error-desc'?: string;
  'total-time'?: number;
  'setup-time'?: number;
  downtime?: number;
  'expected-downtime'?: number;
  ram?: MigrationRamInfo;
  'socket-address'?: readonly string[];
  /** Which side of the migration this process is. */
  'x-side'?: 'source' | 'destination';
  'x-incoming-state'?: PostcopyIncomingState;
  'x-guest-downtime-us'?: number;
  /** False when source and destination are different hosts: `x-guest-downtime-us` then rests on their wall clocks. */
  'x-guest-downtime-exact'?: boolean;
  'x-resident-ms'?: number;
  /** Why the switch to postcopy happened. */
  'x-postcopy-cause'?: 'start-time' | 'command';
  /** Pages sent (source) or placed (destination) in postcopy because they were asked for, and without. */
  'x-pages-demanded'?: number;
  'x-pages-pushed'?: number;
  /** Pages sent because a destination that fetches its memory asked for them in ranges, ahead of its guest. */
  'x-pages-read-ahead'?: number;
  /** Of those pushed, the ones that a recorded order put first. */
  'x-pages-pushed-in-order'?: number;
  /** Destination: from the fault being read to the page being placed. Source: from the request to the page being sent. */
  'x-page-request-latency-us'?: LatencySummary;
  /** Round trips of pings: over the stream, through the destination's engine, and back. */
  'x-ping-round-trip-us'?: LatencySummary;
  /** Postcopy has lost its connection so often; `last-at-ms` is from the start of the migration to the last time. */
  'x-interruptions'?: {
    count: number;
    recovered: number;
    'total-ms': number;
    'last-at-ms': number;
  };
  /** Bytes by kind, headers included. */
  'x-bytes'?: {
    pages: number;
    'zero-pages': number;
    commands: number;
    devices: number;
    'return-path': number;
  };
}
