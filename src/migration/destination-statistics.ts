/**
 * What a destination counts, and the answer to `query-migrate` made from it.
 */
import type { PageBitmap } from '../memory/page-bitmap.ts';
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import type { GuestDowntime } from './destination.ts';
import { Interruptions } from './interruptions.ts';
import { LatencyRecorder } from './latency-recorder.ts';
import type { MigrationInfo } from './migration-info.ts';
import type { MigrationStatus, PostcopyIncomingState } from './states.ts';

export class DestinationStatistics {
  readonly #totalBytes: number;
  startedAtMs = Number.NaN;
  /** When the package was complete here: the guest has stood still for some time then. */
  packageAtMs = Number.NaN;
  resumedAtMs = Number.NaN;
  residentAtMs = Number.NaN;
  endedAtMs = Number.NaN;
  downtime: GuestDowntime | undefined;

  receivedBytes = 0;
  deviceBytes = 0;
  normalPages = 0;
  zeroPages = 0;
  pushedPages = 0;
  demandedPages = 0;
  readonly interruptions = new Interruptions();
  readonly #requestLatency = new LatencyRecorder();

  constructor(totalBytes: number) {
    this.#totalBytes = totalBytes;
  }

  demandedPage(waitedUs: number): void {
    this.demandedPages++;
    this.#requestLatency.record(waitedUs);
  }

  info(
    status: MigrationStatus,
    error: Error | undefined,
    incoming: PostcopyIncomingState,
    received: readonly PageBitmap[],
    nowMs: number,
  ): MigrationInfo {
    const untilMs = Number.isNaN(this.endedAtMs) ? nowMs : this.endedAtMs;
    const elapsedMs = Math.max(1, untilMs - this.startedAtMs);
    const receivedPages = received.reduce((sum, bitmap) => sum + bitmap.count(), 0);
    const latency = this.#requestLatency.summary();
    const isPostcopy = incoming !== 'none' && incoming !== 'advise' && incoming !== 'discard';
    return {
      status,
      ...(error !== undefined && { 'error-desc': error.message }),
      'x-side': 'destination',
      'x-incoming-state': incoming,
      'total-time': Math.round(elapsedMs),
      ...(this.downtime !== undefined && {
        'x-guest-downtime-us': Math.round(this.downtime.guestDowntimeUs),
        'x-guest-downtime-exact': this.downtime.isExact,
      }),
      ...(!Number.isNaN(this.residentAtMs) &&
        !Number.isNaN(this.resumedAtMs) && {
          'x-resident-ms': Math.max(0, Math.round(this.residentAtMs - this.resumedAtMs)),
        }),
      ram: {
        transferred: this.receivedBytes,
        remaining: this.#totalBytes - receivedPages * TARGET_PAGE_BYTES,
        total: this.#totalBytes,
        duplicate: this.zeroPages,
        normal: this.normalPages,
        'normal-bytes': this.normalPages * TARGET_PAGE_BYTES,
        'dirty-pages-rate': 0,
        mbps: Math.round((this.receivedBytes * 8) / elapsedMs / 10) / 100,
        'dirty-sync-count': 0,
        'postcopy-requests': this.demandedPages,
        'page-size': TARGET_PAGE_BYTES,
        'pages-per-second': Math.round(((this.normalPages + this.zeroPages) / elapsedMs) * 1000),
        'precopy-bytes': 0,
        'downtime-bytes': 0,
        'postcopy-bytes': 0,
      },
      ...(isPostcopy && { 'x-pages-demanded': this.demandedPages, 'x-pages-pushed': this.pushedPages }),
      ...(latency !== undefined && { 'x-page-request-latency-us': latency }),
      ...this.interruptions.info(this.startedAtMs, untilMs),
    };
  }
}
