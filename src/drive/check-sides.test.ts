import assert from 'node:assert/strict';
import { test } from 'node:test';
import { checkStates, checkUnderWay } from './check-sides.ts';

const state = (runState: string, status = 'none') => ({ runState, status });
const WAITING = state('inmigrate');

test('checkStates() lets a guest go that runs or is paused, also after a migration that failed', () => {
  for (const runState of ['running', 'paused', 'prelaunch', 'suspended', 'io-error']) {
    checkStates(state(runState), WAITING);
  }
  checkStates(state('running', 'failed'), state('inmigrate', 'setup'));
  checkStates(state('running', 'cancelled'), WAITING);
});

test('checkStates() says what is in the way', () => {
  const refuses = (source: object, destination: object, why: RegExp) =>
    assert.throws(() => checkStates(source as never, destination as never), why);
  refuses(
    state('running', 'active'),
    WAITING,
    /under way already \("active"\): --join takes it over, "migrate_cancel"/,
  );
  refuses(
    state('postmigrate', 'postcopy-paused'),
    WAITING,
    /under way already \("postcopy-paused"\): --join takes it over$/,
  );
  refuses(state('postmigrate', 'completed'), WAITING, /no guest .*"postmigrate", its guest has moved away/);
  refuses(state('inmigrate'), WAITING, /the wrong way round/);
  refuses(state('shutdown'), WAITING, /no guest that could move: it is "shutdown"$/);
  refuses(
    state('running'),
    state('running'),
    /does not wait for a migration: it is "running"; start it with -incoming defer/,
  );
  refuses(
    state('running'),
    state('inmigrate', 'failed'),
    /has had a migration already \("failed"\): start it again/,
  );
});

test('checkUnderWay() wants a migration that has not ended', () => {
  checkUnderWay(state('running', 'active'));
  checkUnderWay(state('finish-migrate', 'postcopy-paused'));
  assert.throws(
    () => checkUnderWay(state('running')),
    /no migration under way .*: its migration is "none", its guest "running"/,
  );
  assert.throws(() => checkUnderWay(state('postmigrate', 'completed')), /its migration is "completed"/);
});
