import assert from 'node:assert/strict';
import { test } from 'node:test';
import { judgeConvergence, MAX_ROUNDS, type Round } from './judge-convergence.ts';

const MIB = 2 ** 20;
const LIMIT_MS = 300;

const round = (pass: number, remainingMib: number, dirtyMib = 0, bandwidthMib = 0): Round => ({
  pass,
  remainingBytes: remainingMib * MIB,
  dirtyBytesPerSecond: dirtyMib * MIB,
  bytesPerSecond: bandwidthMib * MIB,
});
const verdictOf = (...rounds: Round[]) => judgeConvergence(rounds, LIMIT_MS).verdict;

test('judgeConvergence() lets the first round pass, however much the guest writes', () => {
  assert.equal(verdictOf(), 'go-on');
  assert.equal(verdictOf(round(1, 4096, 1000, 100)), 'go-on');
});

test('judgeConvergence() switches when the guest writes about as fast as memory is sent, or faster', () => {
  assert.equal(verdictOf(round(1, 4096), round(2, 500, 69, 100)), 'go-on');
  assert.equal(verdictOf(round(1, 4096), round(2, 500, 70, 100)), 'switch');
  assert.deepEqual(judgeConvergence([round(2, 500, 250, 100)], LIMIT_MS), {
    verdict: 'switch',
    why: 'the guest writes at 250 % of the rate that memory is sent at',
  });
});

test('judgeConvergence() goes on when what remains fits into the downtime limit, whatever the rates', () => {
  assert.equal(verdictOf(round(2, 30, 500, 100)), 'go-on');
  assert.equal(verdictOf(round(2, 30.1, 500, 100)), 'switch');
  assert.equal(verdictOf(round(2, 0, 500, 0)), 'go-on');
});

test('judgeConvergence() goes on while rounds shrink, and switches after two in a row that do not', () => {
  assert.equal(verdictOf(round(1, 4096), round(2, 1000), round(3, 600), round(4, 400)), 'go-on');
  assert.equal(verdictOf(round(1, 1000), round(2, 900)), 'go-on');
  assert.equal(verdictOf(round(1, 1000), round(2, 900), round(3, 800)), 'switch');
  assert.equal(verdictOf(round(1, 1000), round(2, 900), round(3, 500), round(4, 450)), 'go-on');
  assert.equal(verdictOf(round(2, 100), round(3, 500), round(4, 450)), 'switch');
});

test('judgeConvergence() does not go on for ever with a guest that is now quick and now slow', () => {
  const hovering = (count: number) =>
    Array.from({ length: count }, (_value, index) => round(index + 1, index % 2 === 0 ? 1000 : 400, 10, 100));
  assert.equal(verdictOf(...hovering(MAX_ROUNDS)), 'go-on');
  assert.equal(verdictOf(...hovering(MAX_ROUNDS + 1)), 'switch');
});
