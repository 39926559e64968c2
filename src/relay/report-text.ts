/** What a relay has seen, for people: a line while it goes on, a report at the end. */
import type { PageCounts } from '../inspect/page-census.ts';
import { formatBytes, formatBytesPerSecond, formatCount, formatMs, formatUs } from '../telemetry/format.ts';
import type { RelayReport, RelayState } from './relay-report.ts';

const OUTCOMES: Readonly<Partial<Record<RelayState, string>>> = {
  completed: 'the migration has passed whole',
  failed: 'the migration failed',
  'postcopy-paused': 'postcopy is interrupted',
  none: 'nobody came',
};

/** @param before the report of some time ago, for the rate */
export function progressText(report: RelayReport, before: RelayReport | undefined): string {
  const seconds = (report.elapsedMs - (before?.elapsedMs ?? 0)) / 1000;
  const bytes = report.streamBytes - (before?.streamBytes ?? 0);
  const pages = sum(report.precopyPages) + sum(report.postcopyPages);
  return [
    report.state,
    `${formatBytes(report.streamBytes)}, ${formatBytesPerSecond(seconds > 0 ? bytes / seconds : 0)}`,
    `pass ${report.passes}`,
    `${formatCount(pages)} pages`,
    ...(report.requests.count === 0
      ? []
      : [
          `${formatCount(report.requests.count)} request${report.requests.count === 1 ? '' : 's'}${report.requests.latencyUs === null ? '' : `, median ${formatUs(report.requests.latencyUs.p50)}`}`,
        ]),
  ].join('  ');
}

export function relayReportText(report: RelayReport): string {
  const { requests, discards, commands } = report;
  const outcome =
    report.state === 'completed' && !report.isConfirmed
      ? 'the stream has passed whole; without a return path nobody says whether the destination took it'
      : (OUTCOMES[report.state] ?? `ended in state ${report.state}`);
  const lines: (readonly [name: string, text: string])[] = [
    ['outcome', `${outcome}${report.error === null ? '' : `: ${report.error}`}`],
  ];
  if (report.connections > 0) {
    lines.push(
      [
        'machine',
        report.machineType === null
          ? 'not said: the relay has not seen the beginning'
          : `${report.machineType}, ${formatBytes(report.ramBytes)} in ${formatCount(report.blocks)} blocks`,
      ],
      ['states', report.states.map(({ state, atMs }) => `${state} ${formatMs(atMs)}`).join(', ')],
      [
        'passed',
        `${formatBytes(report.streamBytes)} down, ${formatBytes(report.returnPathBytes)} up, over ${formatCount(report.connections)} connection${report.connections === 1 ? '' : 's'}, in ${formatMs(report.elapsedMs)}`,
      ],
      [
        'precopy',
        `${pagesText(report.precopyPages)}, in ${formatCount(report.passes)} pass${report.passes === 1 ? '' : 'es'}`,
      ],
    );
  }
  if (sum(report.postcopyPages) > 0) lines.push(['postcopy', pagesText(report.postcopyPages)]);
  if (report.deviceStateBytes > 0) lines.push(['devices', formatBytes(report.deviceStateBytes)]);
  if (discards.commands > 0) {
    lines.push([
      'discards',
      `${formatCount(discards.pages)} pages in ${formatCount(discards.ranges)} ranges, ${formatCount(discards.commands)} commands`,
    ]);
  }
  if (requests.count > 0) {
    lines.push([
      'requests',
      `${formatCount(requests.count)}, ${formatCount(requests.late)} of them for pages that had passed`,
    ]);
  }
  if (requests.latencyUs !== null) {
    const { p50, p99, max } = requests.latencyUs;
    lines.push([
      'latency here',
      `median ${formatUs(p50)}, 99 % ${formatUs(p99)}, longest ${formatUs(max)}, from request up to page down`,
    ]);
  }
  const names = Object.entries(commands);
  if (names.length > 0) {
    lines.push([
      'commands',
      names.map(([name, count]) => (count === 1 ? name : `${name} × ${formatCount(count)}`)).join(', '),
    ]);
  }
  if (report.recording !== null) {
    const { path, bytes, error } = report.recording;
    lines.push(['recorded', `${formatBytes(bytes)} to ${path}${error === null ? '' : `, then: ${error}`}`]);
  }
  return `${lines.map(([name, text]) => `${name.padEnd(13)} ${text}`).join('\n')}\n`;
}

function pagesText({ normal, zero, xbzrle, again }: PageCounts): string {
  const kinds = [
    `${formatCount(normal)} normal`,
    `${formatCount(zero)} zero`,
    ...(xbzrle > 0 ? [`${formatCount(xbzrle)} xbzrle`] : []),
  ];
  return `${kinds.join(', ')} pages${again > 0 ? ` (${formatCount(again)} again)` : ''}`;
}

function sum({ normal, zero, xbzrle }: PageCounts): number {
  return normal + zero + xbzrle;
}
