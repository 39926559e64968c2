import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  type BrokenRule,
  DROPPED_REQUEST,
  FORGOTTEN_COMPLEMENT,
  FORGOTTEN_DISCARD,
  FORGOTTEN_WRITE,
  GUEST_ON_BOTH_SIDES,
  NOT_ASKED_AGAIN,
  PAGE_PLACED_TWICE,
} from './broken-rules.ts';
import { SimulationError, simulate } from './simulate.ts';

const SEEDS = 3000;
const only = process.env['SEED'];

test('a simulated migration keeps the rules, whatever happens', (context) => {
  if (only !== undefined) {
    context.diagnostic(simulate(Number(only)).story);
    return;
  }
  const outcomes = new Set<string>();
  let mostRecoveries = 0;
  for (let seed = 1; seed <= SEEDS; seed++) {
    const { source, destination, wasPostcopy, recoveries } = simulate(seed);
    outcomes.add(`${source} / ${destination}${wasPostcopy ? ', postcopy' : ''}`);
    mostRecoveries = Math.max(mostRecoveries, recoveries);
  }
  assert.ok(mostRecoveries >= 3, `no seed recovers more than ${mostRecoveries} times`);
  for (const outcome of [
    'completed / completed',
    'completed / completed, postcopy',
    'cancelled / failed',
    'failed / failed',
    'failed / completed',
    'postcopy-paused / postcopy-paused, postcopy',
    'postcopy-paused / completed, postcopy',
    'postcopy-paused / failed, postcopy',
  ])
    assert.ok(outcomes.has(outcome), `no seed ends in ${outcome}`);
});

const BROKEN: readonly (readonly [string, BrokenRule, RegExp])[] = [
  ['a discard that is forgotten', FORGOTTEN_DISCARD, /stale page/],
  ['a page request that is lost', DROPPED_REQUEST, /slow|requests/],
  ['a page that is placed twice', PAGE_PLACED_TWICE, /placed twice/],
  ['a write that is not reported as dirty', FORGOTTEN_WRITE, /stale page/],
  ['a source that believes what it sent has arrived', FORGOTTEN_COMPLEMENT, /hang/],
  ['a destination that does not ask again', NOT_ASKED_AGAIN, /slow/],
  ['a guest that goes on at the source', GUEST_ON_BOTH_SIDES, /two guests/],
];

for (const [what, rule, found] of BROKEN) {
  test(`the simulation finds ${what}`, () => {
    for (let seed = 1; seed <= SEEDS; seed++) {
      try {
        simulate(seed, rule);
      } catch (error) {
        assert.ok(error instanceof SimulationError);
        if (found.test(error.message.split('\n', 1)[0] as string)) return;
      }
    }
    assert.fail(`${SEEDS} seeds did not show it`);
  });
}
