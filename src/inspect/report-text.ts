/**
 * The report of `postcopy inspect` for people.
 *
 * Stream bytes are hexadecimal, as a hex dump shows them.
 */
import { formatBytes, formatCount } from '../telemetry/format.ts';
import type { DecodedCommand } from '../wire/commands.ts';
import type { PageCounts } from './page-census.ts';
import type { StreamItem, StreamReport } from './stream-report.ts';

const KINDS: Readonly<Record<StreamReport['kind'], string>> = {
  precopy: 'precopy stream',
  postcopy: 'postcopy stream',
  'mapped-ram': 'mapped-ram file',
  recovery: 'recovery of a postcopy',
  unknown: 'no migration stream',
};

/** @param name what was read: a file or a URI */
export function reportText(name: string, report: StreamReport): string {
  return [
    headText(name, report),
    blocksText(report),
    section('In order', report.items.map(itemText), report.itemsLeftOut),
    devicesText(report),
  ]
    .filter((text) => text !== '')
    .join('\n');
}

/** What the stream is, in some lines. */
export function headText(name: string, report: StreamReport): string {
  const of = report.machineType === null ? '' : ` of ${report.machineType}`;
  const state = report.isComplete ? 'complete' : report.error === null ? 'not complete' : 'damaged';
  const lines = [`${name}: ${KINDS[report.kind]}${of}, ${formatBytes(report.bytes)}, ${state}`];
  if (report.uuid !== null) lines.push(`  uuid          ${report.uuid}`);
  if (report.capabilities.length > 0) lines.push(`  capabilities  ${report.capabilities.join(', ')}`);
  if (report.passes > 0) lines.push(`  passes        ${report.passes}`);
  if (report.runState !== null) lines.push(`  run state     ${report.runState}`);
  return `${lines.join('\n')}\n`;
}

/** The tables that need the whole stream: blocks and devices. */
export function blocksText({ blocks }: StreamReport): string {
  if (blocks.length === 0) return '';
  const rows = blocks.map(({ idstr, lengthBytes, pageSizeBytes, gpa, pages }) => [
    idstr,
    lengthBytes === null ? '?' : formatBytes(lengthBytes),
    ...countCells(pages),
    [
      ...(pageSizeBytes === 4096 ? [] : [`pages of ${formatBytes(pageSizeBytes)}`]),
      ...(gpa === undefined ? [] : [`at ${gpa}`]),
    ].join(', '),
  ]);
  const total = [
    'all',
    blocks.some(({ lengthBytes }) => lengthBytes === null)
      ? '?'
      : formatBytes(blocks.reduce((sum, block) => sum + (block.lengthBytes ?? 0), 0)),
    ...countCells(sumOf(blocks.map(({ pages }) => pages))),
    '',
  ];
  return table(['RAM block', 'length', 'normal', 'zero', 'xbzrle', 'again', ''], [...rows, total]);
}

export function devicesText({ devices, devicesBy, items }: StreamReport): string {
  if (devicesBy === null) {
    const opaque = items.some(({ kind }) => kind === 'devices' || kind === 'package');
    return opaque ? 'Devices: only the machine itself can tell them apart.\n' : '';
  }
  const rows = devices.map(({ sectionId, idstr, instanceId, versionId, bodyBytes, at }) => [
    idstr,
    `${instanceId}`,
    `${versionId}`,
    `${sectionId}`,
    formatBytes(bodyBytes),
    offset(at),
  ]);
  const note =
    devicesBy === 'footers' ? 'No description says where a device ends: told apart by their footers.\n' : '';
  return table(['device', 'instance', 'version', 'section', 'body', 'at'], rows) + note;
}

/** One line about an item. */
export function itemText(item: StreamItem): string {
  const range = `${offset(item.at).padStart(12)}  ${formatBytes(item.endAt - item.at).padStart(10)}  `;
  return `${range}${whatText(item)}`;
}

function whatText(item: StreamItem): string {
  switch (item.kind) {
    case 'configuration':
      return 'CONFIGURATION';
    case 'recovery':
      return 'continues a postcopy that was interrupted';
    case 'ram-start':
      return `RAM START, ${count(item.blocks, 'block')} of ${formatBytes(item.ramBytes)} in all`;
    case 'ram-parts': {
      const extras = [
        ...(item.pings > 0 ? [count(item.pings, 'PING')] : []),
        ...(item.flushes > 0 ? [count(item.flushes, 'MULTIFD_FLUSH', '')] : []),
      ];
      const sections = `RAM PART${item.sections === 1 ? '' : ` × ${formatCount(item.sections)}`}`;
      return [sections, pagesText(item.pages), ...extras].filter((text) => text !== '').join(', ');
    }
    case 'ram-end':
      return ['RAM END', pagesText(item.pages)].filter((text) => text !== '').join(', ');
    case 'command':
      return `${commandText(item.command)}${item.count === 1 ? '' : ` × ${item.count}`}`;
    case 'discards':
      return `POSTCOPY_RAM_DISCARD${item.commands === 1 ? '' : ` × ${item.commands}`}, "${item.idstr}": ${count(item.pages, 'page')} in ${count(item.ranges, 'range')}`;
    case 'package':
      return `PACKAGED, ${formatBytes(item.lengthBytes)} of device state`;
    case 'devices':
      return 'device state';
    case 'eof':
      return 'EOF';
    case 'description':
      return 'VM description';
  }
}

function commandText(command: DecodedCommand): string {
  const name = command.type.toUpperCase().replaceAll('-', '_');
  switch (command.type) {
    case 'ping':
      return `${name} ${command.value > 9 ? `0x${command.value.toString(16)}` : command.value}`;
    case 'postcopy-advise':
      return `${name}, page sizes 0x${command.pageSizeSummary.toString(16)}`;
    case 'postcopy-advise-bitmaps':
      return 'POSTCOPY_ADVISE, only of dirty bitmaps';
    case 'recv-bitmap':
      return `${name} "${command.idstr}"`;
    default:
      return name;
  }
}

function pagesText({ normal, zero, xbzrle, again }: PageCounts): string {
  const kinds = [
    ...(normal > 0 ? [`${formatCount(normal)} normal`] : []),
    ...(zero > 0 ? [`${formatCount(zero)} zero`] : []),
    ...(xbzrle > 0 ? [`${formatCount(xbzrle)} xbzrle`] : []),
  ];
  if (kinds.length === 0) return 'no pages';
  return kinds.join(', ') + (again > 0 ? ` (${formatCount(again)} again)` : '');
}

function countCells({ normal, zero, xbzrle, again }: PageCounts): string[] {
  return [normal, zero, xbzrle, again].map((pages) => formatCount(pages));
}

function sumOf(all: readonly PageCounts[]): PageCounts {
  const sum = { normal: 0, zero: 0, xbzrle: 0, again: 0 };
  for (const { normal, zero, xbzrle, again } of all) {
    sum.normal += normal;
    sum.zero += zero;
    sum.xbzrle += xbzrle;
    sum.again += again;
  }
  return sum;
}

function offset(at: number): string {
  return `0x${at.toString(16)}`;
}

function count(countOf: number, noun: string, plural = 's'): string {
  return `${formatCount(countOf)} ${noun}${countOf === 1 ? '' : plural}`;
}

function section(title: string, lines: readonly string[], leftOut: number): string {
  if (lines.length === 0) return '';
  const more = leftOut === 0 ? '' : `  … and ${formatCount(leftOut)} more\n`;
  return `${title}\n${lines.join('\n')}\n${more}`;
}

/** The first column left, all others right. */
function table(titles: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [titles, ...rows];
  const widths = titles.map((_, column) => Math.max(...all.map((row) => row[column]!.length)));
  const lines = all.map((row) =>
    row
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[column]!)))
      .join('  ')
      .trimEnd(),
  );
  return `${lines.join('\n')}\n`;
}
