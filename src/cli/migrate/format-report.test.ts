import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { MigrationReport } from '../../drive/report.ts';
import { formatMigrationReport } from './format-report.ts';

const SIDE = {
  address: 'unix:a',
  monitor: 'answers',
  migrationStatus: 'completed',
  runState: 'postmigrate',
} as const;
const REPORT: MigrationReport = {
  ...{
    outcome: 'completed',
    exitCode: 0,
    text: 'The guest runs at the destination.',
    guestAt: 'destination',
  },
  ...{ recoveries: 2, timeline: [], notes: ['Something else.'] },
  postcopy: { why: 'it was to be after 1 s', atMs: 1007 },
  ...{
    totalMs: 4551,
    downtimeMs: 1.5,
    downtimeBy: 'source',
    passes: 3,
    memoryBytes: 2 ** 28,
    transferredBytes: 2 ** 27,
  },
  ...{ precopyBytes: 2 ** 26, downtimeBytes: 0, postcopyBytes: 2 ** 26, pageRequests: 1043, blocktimeMs: 12 },
  source: { ...SIDE, program: 'QEMU 7.2.22', machineType: 'pc-i440fx-7.2' },
  destination: { ...SIDE, monitor: 'process-ended' },
};

test('formatMigrationReport() says what is known, one thing a line, and the outcome last', () => {
  assert.equal(
    formatMigrationReport(REPORT),
    `
  source                  QEMU 7.2.22, pc-i440fx-7.2: migration completed, guest postmigrate
  destination             its process has ended (last: migration completed, guest postmigrate)
  total time              4.55 s
  the guest stood still   1.5 ms, as the source has measured
  passes                  3
  switch to postcopy      after 1.01 s: it was to be after 1 s
  sent                    128 MiB for 256 MiB of memory
    in precopy            64 MiB
    in postcopy           64 MiB
  page requests           1 043
  waited for pages        12 ms
  recovered               2 times

COMPLETED: The guest runs at the destination.
  Something else.
`,
  );
});

test('formatMigrationReport() of a migration that was not started has no figures', () => {
  const report: MigrationReport = {
    ...{ outcome: 'not-started', exitCode: 1, text: 'Nobody is there', guestAt: 'unknown', recoveries: 0 },
    ...{ timeline: [], notes: [] },
  };
  assert.equal(formatMigrationReport(report), 'NOT STARTED: Nobody is there.\n');
});
