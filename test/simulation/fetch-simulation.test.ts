import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type BrokenFetch, simulateFetch } from './fetch-simulation.ts';

const SEEDS = 1000;
const only = process.env['SEED'];

test('a snapshot that is fetched is whole in the end, whatever happens on the way', (context) => {
  if (only !== undefined) {
    context.diagnostic(simulateFetch(Number(only)).story);
    return;
  }
  const ends = new Set<string>();
  let mostSessions = 0;
  let refusals = 0;
  for (let seed = 1; seed <= SEEDS; seed++) {
    const outcome = simulateFetch(seed);
    ends.add(outcome.end);
    mostSessions = Math.max(mostSessions, outcome.sessions);
    refusals += outcome.refusals;
  }
  assert.deepEqual(ends, new Set(['complete', 'other-snapshot']));
  assert.ok(mostSessions >= 4, `no seed has more than ${mostSessions} sessions`);
  assert.ok(refusals >= 10, `${refusals} lies were refused`);
});

test('a seed of a fetch tells the same story again', () => {
  for (let seed = 1; seed <= 50; seed++) assert.equal(simulateFetch(seed).hash, simulateFetch(seed).hash);
});

const BROKEN: readonly (readonly [string, BrokenFetch, RegExp])[] = [
  ['a page that is waited for and not asked for', { isDemandForgotten: true }, /^SEED=\d+ slow/],
  ['a lost session whose pages are taken for asked', { isLossForgotten: true }, /^SEED=\d+ hang/],
  ['a server that is silent for ever', { isSilenceIgnored: true }, /^SEED=\d+ hang/],
];

for (const [what, broken, found] of BROKEN) {
  test(`the simulation finds ${what}`, () => {
    for (let seed = 1; seed <= SEEDS; seed++) {
      try {
        simulateFetch(seed, broken);
      } catch (error) {
        if (found.test((error as Error).message)) return;
      }
    }
    assert.fail(`${SEEDS} seeds did not show it`);
  });
}
