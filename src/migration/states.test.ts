import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DESTINATION_MOVES, isMigrationRunning, type MigrationStatus, SOURCE_MOVES } from './states.ts';

/** MigrationStatus of QEMU's QAPI schema. */
const QEMU_STATUSES = [
  'none',
  'setup',
  'cancelling',
  'cancelled',
  'active',
  'postcopy-device',
  'postcopy-active',
  'postcopy-paused',
  'postcopy-recover-setup',
  'postcopy-recover',
  'completed',
  'failed',
  'colo',
  'pre-switchover',
  'device',
  'wait-unplug',
];

type Moves = Readonly<Record<MigrationStatus, readonly MigrationStatus[]>>;

function reachable(moves: Moves): Set<MigrationStatus> {
  const reached = new Set<MigrationStatus>(['none']);
  for (const status of reached) for (const next of moves[status]) reached.add(next);
  return reached;
}

test('SOURCE_MOVES reaches every status, by names of QEMU', () => {
  const all = Object.keys(SOURCE_MOVES) as MigrationStatus[];
  assert.deepEqual([...reachable(SOURCE_MOVES)].sort(), all.sort());
  for (const status of all) assert.ok(QEMU_STATUSES.includes(status), status);
});

test('DESTINATION_MOVES reaches every status a destination has', () => {
  assert.deepEqual([...reachable(DESTINATION_MOVES)].sort(), [
    'active',
    'completed',
    'failed',
    'none',
    'postcopy-active',
    'postcopy-device',
    'postcopy-paused',
    'postcopy-recover',
    'setup',
  ]);
});

test('SOURCE_MOVES never leads from postcopy back to a guest that runs at the source', () => {
  const after = reachable({ ...SOURCE_MOVES, none: ['postcopy-active'], completed: [], failed: [] });
  assert.ok(!after.has('cancelled') && !after.has('active'));
});

test('isMigrationRunning() is true while a migration holds the memory', () => {
  const running = (Object.keys(SOURCE_MOVES) as MigrationStatus[]).filter(isMigrationRunning).sort();
  assert.deepEqual(running, [
    'active',
    'cancelling',
    'device',
    'postcopy-active',
    'postcopy-device',
    'postcopy-paused',
    'postcopy-recover',
    'postcopy-recover-setup',
    'setup',
  ]);
});
