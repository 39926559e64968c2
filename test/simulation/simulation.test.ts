import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as broken from './broken-rules.ts';
import { ruleOf, shrink } from './shrink.ts';
import { type Outcome, SimulationError, simulate } from './simulate.ts';

const SEEDS = 3000;
const only = process.env['SEED'];

test('a simulated migration keeps the rules, whatever happens', (context) => {
  if (only !== undefined) {
    context.diagnostic(simulate(Number(only), { keepsStory: true }).story);
    return;
  }
  const outcomes = new Set<string>();
  const ends = new Set<Outcome['end']>();
  let mostRecoveries = 0;
  let mostMigrations = 0;
  for (let seed = 1; seed <= SEEDS; seed++) {
    const { source, destination, wasPostcopy, recoveries, migrations, end } = simulate(seed);
    outcomes.add(`${source} / ${destination}${wasPostcopy ? ', postcopy' : ''}`);
    ends.add(end);
    mostRecoveries = Math.max(mostRecoveries, recoveries);
    mostMigrations = Math.max(mostMigrations, migrations);
  }
  assert.ok(mostRecoveries >= 3, `no seed recovers more than ${mostRecoveries} times`);
  assert.ok(mostMigrations >= 3, `no seed migrates more than ${mostMigrations} times`);
  assert.deepEqual(ends, new Set(['at-source', 'at-destination', 'lost']));
  for (const outcome of [
    'completed / completed',
    'completed / completed, postcopy',
    'cancelled / failed',
    'failed / failed',
    'failed / completed',
    'failed / postcopy-device',
    'postcopy-paused / postcopy-paused, postcopy',
    'postcopy-paused / completed, postcopy',
  ])
    assert.ok(outcomes.has(outcome), `no seed ends in ${outcome}`);
});

test('a seed tells the same story again, and another seed another', () => {
  const hashes = new Set<string>();
  for (let seed = 1; seed <= 200; seed++) {
    const { hash } = simulate(seed);
    assert.equal(simulate(seed).hash, hash, `SEED=${seed}`);
    hashes.add(hash);
  }
  assert.ok(hashes.size >= 190, `200 seeds tell ${hashes.size} stories`);
});

test('a scenario that fails is made smaller', () => {
  const seed = firstThatFails(broken.FORGOTTEN_DISCARD, /stale page/);
  const shrunk = shrink(seed, broken.FORGOTTEN_DISCARD);
  assert.ok(shrunk !== undefined);
  assert.equal(ruleOf(shrunk.error), 'stale page');
  assert.equal(shrunk.scenario.guest.vcpus, 1);
  assert.equal(shrunk.scenario.operator.strangers.length, 0);
});

const BROKEN: readonly (readonly [string, broken.BrokenRule, RegExp])[] = [
  ['a discard that is forgotten', broken.FORGOTTEN_DISCARD, /^stale page/],
  ['a page request that is lost', broken.DROPPED_REQUEST, /^(slow|requests)/],
  ['a page that is placed twice', broken.PAGE_PLACED_TWICE, /^placed twice/],
  ['a write that is not reported as dirty', broken.FORGOTTEN_WRITE, /^stale page/],
  ['a source that believes what it sent has arrived', broken.FORGOTTEN_COMPLEMENT, /^hang/],
  ['a page said to be there, in a recovery, that is not', broken.BITMAP_BIT_GAINED, /^hang/],
  ['a page said to be missing, in a recovery, that is there', broken.BITMAP_BIT_LOST, /^hang/],
  ['a destination that does not ask again', broken.NOT_ASKED_AGAIN, /^slow/],
  ['a destination that says too early that it has loaded the guest', broken.EARLY_ACK, /^guest: it is lost/],
  ['a time-out that is never armed', broken.TIMEOUT_NEVER_ARMED, /^no time-out/],
  ['a cancel that is ignored', broken.CANCEL_IGNORED, /^cancel/],
  ['a guest that goes on at the source', broken.GUEST_ON_BOTH_SIDES, /^two guests/],
  ['RUN that is sent before the handshake', broken.RUN_BEFORE_HANDSHAKE, /^two guests/],
  ['an operator who lets the guest run without a look', broken.RASH_OPERATOR, /^two guests/],
];

for (const [what, rule, found] of BROKEN) {
  test(`the simulation finds ${what}`, () => {
    firstThatFails(rule, found);
  });
}

function firstThatFails(rule: broken.BrokenRule, found: RegExp): number {
  for (let seed = 1; seed <= SEEDS; seed++) {
    try {
      simulate(seed, { broken: rule });
    } catch (error) {
      assert.ok(error instanceof SimulationError);
      if (found.test(error.rule)) return seed;
    }
  }
  assert.fail(`${SEEDS} seeds did not show it`);
}
