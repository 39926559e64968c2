import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { RateLimiter } from './rate-limiter.ts';

const MIN_BURST_BYTES = 16 * 1024;

test('RateLimiter lets everything through without a limit', () => {
  const limiter = new RateLimiter();
  assert.equal(limiter.available(5), Number.POSITIVE_INFINITY);
  limiter.spend(1e12);
  assert.equal(limiter.available(5), Number.POSITIVE_INFINITY);
  assert.equal(limiter.readyAtMs(5, 1e9), 5);
});

test('RateLimiter fills at the limit, and no further than a burst', () => {
  const limiter = new RateLimiter();
  limiter.setLimit(1_000_000, 100);
  assert.equal(limiter.available(100), 0);
  assert.equal(limiter.available(104), 4000);
  assert.equal(limiter.available(9999), MIN_BURST_BYTES);
  limiter.setLimit(100_000_000, 9999);
  assert.equal(limiter.available(99_999), 1_000_000, '10 ms of a high limit');
});

test('RateLimiter goes below zero for what must not wait, and makes up for it', () => {
  const limiter = new RateLimiter();
  limiter.setLimit(1_000_000, 0);
  limiter.spend(20_000);
  assert.equal(limiter.available(0), -20_000);
  assert.equal(limiter.readyAtMs(0, 5000), 25);
  assert.equal(limiter.available(25), 5000);
});

test('RateLimiter.readyAtMs() asks for no more than a full bucket', () => {
  const limiter = new RateLimiter();
  limiter.setLimit(1_000_000, 0);
  assert.equal(limiter.readyAtMs(0, 1e9), MIN_BURST_BYTES / 1000);
  assert.equal(limiter.readyAtMs(50, 1), 50);
});

test('RateLimiter.setLimit() with the same limit changes nothing', () => {
  const limiter = new RateLimiter();
  limiter.setLimit(1_000_000, 0);
  limiter.setLimit(1_000_000, 10);
  assert.equal(limiter.available(10), 10_000);
  limiter.setLimit(0, 10);
  assert.equal(limiter.available(10), Number.POSITIVE_INFINITY);
});

test('RateLimiter holds its rate over any stretch of time, but for a burst', () => {
  const step = fc.record({ elapsedMs: fc.integer({ min: 0, max: 40 }), wantedBytes: fc.nat(30_000) });
  fc.assert(
    fc.property(fc.integer({ min: 10_000, max: 50_000_000 }), fc.array(step), (limit, steps) => {
      const limiter = new RateLimiter();
      limiter.setLimit(limit, 0);
      const sent: { atMs: number; bytes: number }[] = [];
      let nowMs = 0;
      for (const { elapsedMs, wantedBytes } of steps) {
        nowMs += elapsedMs;
        const bytes = Math.max(0, Math.min(wantedBytes, limiter.available(nowMs)));
        limiter.spend(bytes);
        sent.push({ atMs: nowMs, bytes });
      }
      const burstBytes = Math.max(MIN_BURST_BYTES, limit / 100);
      sent.forEach((first, from) => {
        let total = 0;
        for (const { atMs, bytes } of sent.slice(from)) {
          total += bytes;
          assert.ok(total <= burstBytes + ((atMs - first.atMs) * limit) / 1000 + 1e-3);
        }
      });
    }),
  );
});
