/**
 * What a source counts, and the answer to `query-migrate` made from it.
 */
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import { Interruptions } from './interruptions.ts';
import { LatencyRecorder } from './latency-recorder.ts';
import type { MigrationInfo } from './migration-info.ts';
import type { MigrationStatus } from './states.ts';

export class SourceStatistics {
  startedAtMs = Number.NaN;
  activeAtMs = Number.NaN;
  pausedAtMs = Number.NaN;
  handedOverAtMs = Number.NaN;
  endedAtMs = Number.NaN;
  /** Why postcopy began. */
  postcopyCause: 'start-time' | 'command' | undefined;

  normalPages = 0;
  zeroPages = 0;
  demandedPages = 0;
  /** Pages of requested ranges: nobody waits for them. */
  readAheadPages = 0;
  pushedPages = 0;
  /** Of the pushed pages, those that an order put first. */
  orderedPages = 0;
  pageRequests = 0;
  syncCount = 0;
  dirtyPagesPerSecond = 0;

  pageBytes = 0;
  zeroPageBytes = 0;
  commandBytes = 0;
  deviceBytes = 0;
  returnPathBytes = 0;
  /** RAM bytes by phase. */
  precopyBytes = 0;
  downtimeBytes = 0;
  postcopyBytes = 0;

  /** Bytes per second, measured over the last tenth of a second or more. */
  bandwidth = 0;
  #measuredAtMs = Number.NaN;
  #measuredBytes = 0;

  readonly interruptions = new Interruptions();
  readonly requestLatency = new LatencyRecorder();
  readonly pingRoundTrip = new LatencyRecorder();

  /** Takes a bandwidth sample if the last one is long enough ago, or `isDue` says that a decision needs one. */
  measureBandwidth(sentBytes: number, nowMs: number, isDue = false): void {
    if (Number.isNaN(this.#measuredAtMs)) this.#measuredAtMs = this.activeAtMs;
    const elapsedMs = nowMs - this.#measuredAtMs;
    if (elapsedMs < 100 && !(isDue && this.bandwidth === 0 && elapsedMs > 0)) return;
    this.bandwidth = ((sentBytes - this.#measuredBytes) / elapsedMs) * 1000;
    this.#measuredAtMs = nowMs;
    this.#measuredBytes = sentBytes;
  }

  info(
    status: MigrationStatus,
    error: Error | undefined,
    ram: { remainingBytes: number; totalBytes: number },
    downtimeLimitMs: number,
    nowMs: number,
  ): MigrationInfo {
    const untilMs = Number.isNaN(this.endedAtMs) ? nowMs : this.endedAtMs;
    const activeMs = Math.max(1, untilMs - this.activeAtMs);
    const transferred = this.pageBytes + this.zeroPageBytes;
    const isOver = !Number.isNaN(this.endedAtMs);
    const bytesPerSecond = isOver ? (transferred / activeMs) * 1000 : this.bandwidth;
    const latency = this.requestLatency.summary();
    const roundTrip = this.pingRoundTrip.summary();
    return {
      status,
      ...(error !== undefined && { 'error-desc': error.message }),
      'x-side': 'source',
      'total-time': Math.round(untilMs - this.startedAtMs),
      'setup-time': Math.round(
        (Number.isNaN(this.activeAtMs) ? untilMs : this.activeAtMs) - this.startedAtMs,
      ),
      ...(Number.isNaN(this.handedOverAtMs)
        ? { 'expected-downtime': downtimeLimitMs }
        : { downtime: Math.round(this.handedOverAtMs - this.pausedAtMs) }),
      ram: {
        transferred,
        remaining: ram.remainingBytes,
        total: ram.totalBytes,
        duplicate: this.zeroPages,
        normal: this.normalPages,
        'normal-bytes': this.normalPages * TARGET_PAGE_BYTES,
        'dirty-pages-rate': Math.round(this.dirtyPagesPerSecond),
        mbps: Math.round((bytesPerSecond * 8) / 1e4) / 100,
        'dirty-sync-count': this.syncCount,
        'postcopy-requests': this.pageRequests,
        'page-size': TARGET_PAGE_BYTES,
        'pages-per-second': Math.round(((this.normalPages + this.zeroPages) / activeMs) * 1000) || 0,
        'precopy-bytes': this.precopyBytes,
        'downtime-bytes': this.downtimeBytes,
        'postcopy-bytes': this.postcopyBytes,
      },
      ...(this.postcopyCause !== undefined && {
        'x-postcopy-cause': this.postcopyCause,
        'x-pages-demanded': this.demandedPages,
        'x-pages-pushed': this.pushedPages,
        ...(this.readAheadPages > 0 && { 'x-pages-read-ahead': this.readAheadPages }),
        ...(this.orderedPages > 0 && { 'x-pages-pushed-in-order': this.orderedPages }),
      }),
      ...(latency !== undefined && { 'x-page-request-latency-us': latency }),
      ...(roundTrip !== undefined && { 'x-ping-round-trip-us': roundTrip }),
      ...this.interruptions.info(this.startedAtMs, untilMs),
      'x-bytes': {
        pages: this.pageBytes,
        'zero-pages': this.zeroPageBytes,
        commands: this.commandBytes,
        devices: this.deviceBytes,
        'return-path': this.returnPathBytes,
      },
    };
  }
}
