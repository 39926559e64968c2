/**
 * What a restore tells: to programs as it is, to people in a few lines.
 */
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import type { FetchInfo } from '../migration/fetcher.ts';
import type { MigrationInfo } from '../migration/migration-info.ts';
import { formatBytes, formatCount, formatMs, formatUs } from '../telemetry/format.ts';
import type { SendableSnapshot } from './snapshot-source.ts';

/** Times are milliseconds since the start of the restore; absent where nobody could tell. */
export interface RestoreReport {
  readonly snapshot: string;
  readonly 'machine-type': string;
  readonly mode: 'postcopy' | 'full';
  /** QEMU's monitor answered. */
  readonly 'qemu-ready-ms': number | undefined;
  /** The guest ran. */
  readonly 'guest-running-ms': number | undefined;
  readonly 'all-memory-ms': number;
  /** The order that was played back: the page requests it was made of, and its pages. */
  readonly 'recorded-order': { readonly requests: number; readonly pages: number } | undefined;
  /** Page requests that this restore wrote down. */
  readonly 'requests-recorded': number | undefined;
  /** What came from another host; undefined for a snapshot of this one. */
  readonly fetch: FetchInfo | undefined;
  /** Statistics of the source, as `query-migrate` has them. */
  readonly migration: MigrationInfo | undefined;
}

/** e.g. `"web1.snap": pc-i440fx-7.2, 2 GiB of memory, 1.3 GiB of it not zero` */
export function describeSnapshot({ path, machineType, blocks }: SendableSnapshot): string {
  const totalBytes = blocks.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
  const contentPages = blocks.reduce((sum, { hasContent }) => sum + hasContent.count(), 0);
  const content = formatBytes(contentPages * TARGET_PAGE_BYTES);
  return `"${path}": ${machineType}, ${formatBytes(totalBytes)} of memory, ${content} of it not zero`;
}

export function formatRestoreReport(report: RestoreReport): string {
  const { migration } = report;
  const lines = [`all memory is there, ${formatMs(report['all-memory-ms'])} after the start`];
  const ram = migration?.ram;
  if (ram !== undefined) {
    const from = report.fetch === undefined ? 'from the file' : 'with content';
    lines.push(`  pages           ${formatCount(ram.normal)} ${from}, ${formatCount(ram.duplicate)} zero`);
  }
  if (report.fetch !== undefined) lines.push(...formatFetch(report.fetch));
  if (report.mode === 'postcopy' && migration !== undefined) {
    const demanded = formatCount(migration['x-pages-demanded'] ?? 0);
    const pushed = formatCount(migration['x-pages-pushed'] ?? 0);
    lines.push(`  the guest       asked for ${demanded}, ${pushed} came before it did`);
    const latency = migration['x-page-request-latency-us'];
    if (latency !== undefined) {
      const { p50, p99, max } = latency;
      lines.push(
        `  waited here     median ${formatUs(p50)}, 99 % ${formatUs(p99)}, longest ${formatUs(max)}`,
      );
    }
  }
  const order = report['recorded-order'];
  if (order !== undefined) {
    const requests = ram?.['postcopy-requests'] ?? 0;
    const ahead = migration?.['x-pages-pushed-in-order'] ?? 0;
    lines.push(
      `  recorded order  ${formatCount(ahead)} of its ${formatCount(order.pages)} pages sent ahead; ` +
        `${formatCount(requests)} page requests, ${formatCount(order.requests)} when it was recorded: ` +
        `${formatCount(Math.max(0, order.requests - requests))} saved`,
    );
  }
  return lines.join('\n');
}

function formatFetch(fetch: FetchInfo): string[] {
  const demanded = fetch['demanded-pages'];
  const fetched = demanded + fetch['read-ahead-pages'];
  const kept = fetch['cached-pages'];
  const shared = fetch['shared-pages'];
  const lines = [
    `  from the server ${formatCount(fetched)} in ${formatBytes(fetch['received-bytes'])}, ` +
      `${formatCount(demanded)} of them because the guest waited`,
    `  from this host  ${formatCount(kept + shared)}, ${formatCount(shared)} of them brought by others meanwhile`,
  ];
  const latency = fetch['latency-us'];
  if (latency !== undefined) {
    const { p50, p99, max } = latency;
    lines.push(`  to fetch a page median ${formatUs(p50)}, 99 % ${formatUs(p99)}, longest ${formatUs(max)}`);
  }
  if (fetch.sessions > 1) lines.push(`  connections     ${fetch.sessions}: ${fetch.sessions - 1} were lost`);
  return lines;
}
