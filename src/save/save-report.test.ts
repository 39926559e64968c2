import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatSaveReport, type SaveReport } from './save-report.ts';

const REPORT: SaveReport = {
  snapshot: 'web1.snap',
  'machine-type': 'pc-i440fx-7.2',
  mode: 'precopy',
  'ram-bytes': 2 ** 31,
  'content-bytes': 1.5 * 2 ** 30,
  'device-bytes': 12_000,
  'file-bytes': 1.5 * 2 ** 30 + 2 ** 20,
  'received-bytes': 2 ** 31,
  pages: { normal: 400_000, zero: 100_000, xbzrle: 0 },
  passes: 4,
  'total-ms': 2000,
  'finish-ms': 100,
  'pause-ms': 130,
  guest: 'running',
  notes: [],
};

test('formatSaveReport() says what there is and what the guest does', () => {
  assert.equal(
    formatSaveReport(REPORT),
    `"web1.snap" saved: pc-i440fx-7.2, in 2 s
  memory    2 GiB, 1.5 GiB of it not zero
  file      takes 1.5 GiB on the disk
  received  2 GiB, in 4 passes, 1 GiB/s
  guest     runs on, and stood still for 130 ms`,
  );
});

test('formatSaveReport() says how a guest that is left paused goes on, and what did not go well', () => {
  const text = formatSaveReport({
    ...REPORT,
    ...{ guest: 'paused', passes: undefined, 'pause-ms': undefined, notes: ['settings stay'] },
  });
  assert.match(text, / {2}received {2}2 GiB, 1 GiB\/s\n {2}guest {5}is paused \("cont" lets it go on/);
  assert.match(text, /\n {2}note {6}settings stay$/);
  assert.match(formatSaveReport({ ...REPORT, guest: 'ended' }), /has ended with its machine$/);
  assert.match(formatSaveReport({ ...REPORT, mode: 'background' }), /2 GiB, each page once, /);
});
