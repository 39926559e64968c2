/**
 * The demo's report for people.
 */
import type { LatencySummary, MigrationInfo } from '../../migration/migration-info.ts';
import { formatBytes, formatCount, formatMs, formatUs } from '../../telemetry/format.ts';
import type { DemoReport } from './run-demo.ts';

export function formatDemoReport(report: DemoReport): string {
  const lines = ['', ...whatHappened(report), '', ...evidence(report), '', verdict(report), ''];
  return lines.join('\n');
}

function whatHappened({ source, destination }: DemoReport): string[] {
  const ram = source.ram;
  const latency = destination['x-page-request-latency-us'];
  return [
    row('time until the end', `${formatMs(source['total-time'] ?? 0)} in all`),
    row('the guest stood still', downtime(destination)),
    row('all memory there', `${formatMs(destination['x-resident-ms'] ?? 0)} after the guest went on`),
    row('sent in precopy', formatBytes(ram?.['precopy-bytes'] ?? 0)),
    row('sent in postcopy', formatBytes(ram?.['postcopy-bytes'] ?? 0)),
    row(
      'pages with data',
      `${formatCount(ram?.normal ?? 0)}; zero pages: ${formatCount(ram?.duplicate ?? 0)}`,
    ),
    row(
      'pages in postcopy',
      `${formatCount(destination['x-pages-demanded'] ?? 0)} on demand, ` +
        `${formatCount(destination['x-pages-pushed'] ?? 0)} unasked`,
    ),
    row('page request, fault to page', latency === undefined ? 'none' : distribution(latency)),
  ];
}

function evidence({ proof, lastTick, firstTick }: DemoReport): string[] {
  const lines: string[] = [];
  if (lastTick !== undefined && firstTick !== undefined) {
    lines.push(
      row(
        "the guest's console",
        `tick ${lastTick.tick} at the source, tick ${firstTick.tick} at the destination, ` +
          `${firstTick.guestMs - lastTick.guestMs} ms later by its own clock`,
      ),
    );
  }
  if (proof !== undefined) {
    const { destination: guest, comparedPages, countedOnPages } = proof;
    lines.push(
      row(
        'its own books',
        `${formatCount(guest.pagesChecked)} pages in place, one edge, nonce ${guest.nonce.toString(16)}`,
      ),
      row(
        'byte for byte',
        `${formatCount(comparedPages)} pages as they left; in ${formatCount(countedOnPages)} the guest has counted on`,
      ),
    );
  }
  return lines;
}

function verdict({ isWhole, objections, wallMs }: DemoReport): string {
  if (isWhole) return `PASS: the guest moved while it ran, and not one byte was lost (${formatMs(wallMs)}).`;
  return ['FAIL:', ...objections.map((objection) => `  - ${objection}`)].join('\n');
}

function downtime(destination: MigrationInfo): string {
  const us = destination['x-guest-downtime-us'];
  if (us === undefined) return 'not known';
  return `${formatUs(us)}, from its last instruction there to its first here`;
}

function distribution(latency: LatencySummary): string {
  const { p50, p99, max } = latency;
  return `median ${formatUs(p50)}, 99 % ${formatUs(p99)}, longest ${formatUs(max)}`;
}

function row(name: string, value: string): string {
  return `  ${name.padEnd(28)}${value}`;
}
