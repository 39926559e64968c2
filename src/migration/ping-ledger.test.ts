import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PingLedger } from './ping-ledger.ts';

test('PingLedger gives values of its own, above those with a meaning', () => {
  const ledger = new PingLedger();
  assert.deepEqual([ledger.next(), ledger.next()], [0x1000, 0x1001]);
});

test('PingLedger tells round trip and position of each ping, in any order, once', () => {
  const ledger = new PingLedger();
  ledger.sent(3, 100, 5000);
  ledger.sent(4, 101, 6000);
  assert.deepEqual(ledger.answered(4, 104), { roundTripMs: 3, position: 6000 });
  assert.deepEqual(ledger.answered(3, 110), { roundTripMs: 10, position: 5000 });
  assert.equal(ledger.answered(3, 111), undefined);
});

test('PingLedger knows nothing of answers to what was not asked', () => {
  assert.equal(new PingLedger().answered(1, 0), undefined);
});
