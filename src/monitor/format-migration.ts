/**
 * `info migrate`: the state of a migration as text, laid out as QEMU 7.2 does, then what only this program knows.
 *
 * The lines up to `postcopy ram` are read by scripts written for QEMU: neither their words nor their units change.
 */
import type { LatencySummary, MigrationInfo, MigrationRamInfo } from '../migration/migration-info.ts';
import { formatBytes, formatUs } from '../telemetry/format.ts';

const GLOBALS = [
  'globals:',
  'store-global-state: on',
  'only-migratable: off',
  'send-configuration: on',
  'send-section-footer: on',
  'decompress-error-check: on',
  'clear-bitmap-shift: 18',
];

export function formatMigrationInfo(info: MigrationInfo): string {
  return [...GLOBALS, ...statusLines(info), ...ramLines(info.ram), ...ownLines(info)].join('\n');
}

function statusLines(info: MigrationInfo): string[] {
  const lines: string[] = [];
  if (info.status !== undefined) {
    const reason = info['error-desc'] === undefined ? '' : ` (${info['error-desc']})`;
    lines.push(`Migration status: ${info.status}${reason}`);
  }
  pushNumber(lines, 'total time', info['total-time'], 'ms');
  pushNumber(lines, 'expected downtime', info['expected-downtime'], 'ms');
  pushNumber(lines, 'downtime', info.downtime, 'ms');
  pushNumber(lines, 'setup', info['setup-time'], 'ms');
  return lines;
}

function ramLines(ram: MigrationRamInfo | undefined): string[] {
  if (ram === undefined) return [];
  const kbytes = (bytes: number) => `${Math.floor(bytes / 1024)} kbytes`;
  const lines = [
    `transferred ram: ${kbytes(ram.transferred)}`,
    `throughput: ${ram.mbps.toFixed(2)} mbps`,
    `remaining ram: ${kbytes(ram.remaining)}`,
    `total ram: ${kbytes(ram.total)}`,
    `duplicate: ${ram.duplicate} pages`,
    'skipped: 0 pages',
    `normal: ${ram.normal} pages`,
    `normal bytes: ${kbytes(ram['normal-bytes'])}`,
    `dirty sync count: ${ram['dirty-sync-count']}`,
    `page size: ${kbytes(ram['page-size'])}`,
    'multifd bytes: 0 kbytes',
    `pages-per-second: ${Math.round(ram['pages-per-second'])}`,
  ];
  if (ram['dirty-pages-rate'] > 0)
    lines.push(`dirty pages rate: ${Math.round(ram['dirty-pages-rate'])} pages`);
  if (ram['postcopy-requests'] > 0) lines.push(`postcopy request count: ${ram['postcopy-requests']}`);
  if (ram['precopy-bytes'] > 0) lines.push(`precopy ram: ${kbytes(ram['precopy-bytes'])}`);
  if (ram['downtime-bytes'] > 0) lines.push(`downtime ram: ${kbytes(ram['downtime-bytes'])}`);
  if (ram['postcopy-bytes'] > 0) lines.push(`postcopy ram: ${kbytes(ram['postcopy-bytes'])}`);
  return lines;
}

function ownLines(info: MigrationInfo): string[] {
  const lines: string[] = [];
  const addresses = info['socket-address'] ?? [];
  if (addresses.length > 0)
    lines.push('socket address: [', ...addresses.map((address) => `\t${address}`), ']');
  if (info['x-side'] !== undefined) lines.push(`side: ${info['x-side']}`);
  if (info['x-incoming-state'] !== undefined) lines.push(`incoming state: ${info['x-incoming-state']}`);
  if (info['x-postcopy-cause'] !== undefined) lines.push(`postcopy cause: ${info['x-postcopy-cause']}`);
  if (info['x-guest-downtime-us'] !== undefined) {
    const doubt = info['x-guest-downtime-exact'] === false ? " (by the two hosts' wall clocks)" : '';
    lines.push(`guest downtime: ${formatUs(info['x-guest-downtime-us'])}${doubt}`);
  }
  pushNumber(lines, 'resident after', info['x-resident-ms'], 'ms');
  pushNumber(lines, 'pages demanded', info['x-pages-demanded']);
  pushNumber(lines, 'pages pushed', info['x-pages-pushed']);
  pushLatency(lines, 'page request latency', info['x-page-request-latency-us']);
  pushLatency(lines, 'ping round trip', info['x-ping-round-trip-us']);
  const interruptions = info['x-interruptions'];
  if (interruptions !== undefined) {
    const { count, recovered, 'total-ms': totalMs, 'last-at-ms': lastAtMs } = interruptions;
    lines.push(
      `interruptions: ${count} (${recovered} recovered; ${totalMs} ms in all, the last at ${lastAtMs} ms)`,
    );
  }
  const bytes = info['x-bytes'];
  if (bytes !== undefined) {
    const parts = Object.entries(bytes).map(([kind, count]) => `${kind} ${formatBytes(count)}`);
    lines.push(`bytes: ${parts.join(', ')}`);
  }
  return lines;
}

function pushNumber(lines: string[], name: string, value: number | undefined, unit?: string): void {
  if (value === undefined) return;
  const shown = Number.isInteger(value) ? value : Number(value.toFixed(3));
  lines.push(unit === undefined ? `${name}: ${shown}` : `${name}: ${shown} ${unit}`);
}

function pushLatency(lines: string[], name: string, latency: LatencySummary | undefined): void {
  if (latency === undefined || latency.count === 0) return;
  const { count, ...times } = latency;
  const parts = Object.entries(times).map(([quantile, us]) => `${quantile} ${formatUs(us)}`);
  lines.push(`${name}: ${parts.join(', ')} (of ${count})`);
}
