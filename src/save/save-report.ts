/**
 * What a save tells: to programs as it is, to people in a few lines.
 */
import { formatBytes, formatBytesPerSecond, formatCount, formatMs } from '../telemetry/format.ts';

/** What the guest does after a save. */
export type GuestAfterwards = 'running' | 'paused' | 'ended';

export interface SaveReport {
  readonly snapshot: string;
  readonly 'machine-type': string;
  readonly mode: 'precopy' | 'background';
  /** Memory of the machine, all blocks together. */
  readonly 'ram-bytes': number;
  /** Of pages that are not zero. */
  readonly 'content-bytes': number;
  /** State of all devices. */
  readonly 'device-bytes': number;
  /** Room that the file takes on its disk. */
  readonly 'file-bytes': number;
  /** What came over the connection. */
  readonly 'received-bytes': number;
  readonly pages: { readonly normal: number; readonly zero: number; readonly xbzrle: number };
  /** How often dirty memory was collected and sent; undefined where the source does not tell. */
  readonly passes: number | undefined;
  /** From the start of the migration until the file was on the disk. */
  readonly 'total-ms': number;
  /** Of that, after the last byte had come. */
  readonly 'finish-ms': number;
  /** How long the guest stood still; undefined if it still does, or nobody could tell. */
  readonly 'pause-ms': number | undefined;
  readonly guest: GuestAfterwards;
  /** What did not go as it should, and is no reason to call the save a failure. */
  readonly notes: readonly string[];
}

export function formatSaveReport(report: SaveReport): string {
  const rate = (report['received-bytes'] / report['total-ms']) * 1000;
  const passes = report.passes === undefined ? '' : `, ${passesOf(report)}`;
  const rows: [string, string][] = [
    ['memory', `${formatBytes(report['ram-bytes'])}, ${formatBytes(report['content-bytes'])} of it not zero`],
    ['file', `takes ${formatBytes(report['file-bytes'])} on the disk`],
    ['received', `${formatBytes(report['received-bytes'])}${passes}, ${formatBytesPerSecond(rate)}`],
    ['guest', describeGuest(report)],
    ...report.notes.map((note): [string, string] => ['note', note]),
  ];
  const title = `"${report.snapshot}" saved: ${report['machine-type']}, in ${formatMs(report['total-ms'])}`;
  return [title, ...rows.map(([name, text]) => `  ${name.padEnd(10)}${text}`)].join('\n');
}

function passesOf({ passes = 1, mode }: SaveReport): string {
  if (mode === 'background') return 'each page once';
  return passes === 1 ? 'in 1 pass' : `in ${formatCount(passes)} passes`;
}

function describeGuest({ guest, 'pause-ms': pauseMs }: SaveReport): string {
  const pause = pauseMs === undefined ? '' : `, and stood still for ${formatMs(pauseMs)}`;
  switch (guest) {
    case 'running':
      return `runs on${pause}`;
    case 'paused':
      return 'is paused ("cont" lets it go on, "quit" ends it)';
    case 'ended':
      return 'has ended with its machine';
  }
}
