import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatBytes, formatBytesPerSecond, formatCount, formatMs, formatUs } from './format.ts';

test('formatBytes() picks the unit', () => {
  assert.equal(formatBytes(0), '0 bytes');
  assert.equal(formatBytes(1023), '1023 bytes');
  assert.equal(formatBytes(4096), '4 KiB');
  assert.equal(formatBytes(1.5 * 2 ** 30), '1.5 GiB');
  assert.equal(formatBytes(2 ** 60), '1048576 TiB');
  assert.equal(formatBytesPerSecond(128 * 2 ** 20), '128 MiB/s');
});

test('formatMs() and formatUs() keep three digits', () => {
  assert.equal(formatMs(0), '0 ms');
  assert.equal(formatMs(0.354), '0.35 ms');
  assert.equal(formatMs(12.34), '12.3 ms');
  assert.equal(formatMs(999), '999 ms');
  assert.equal(formatMs(1500), '1.5 s');
  assert.equal(formatMs(125_000), '2 min 5 s');
  assert.equal(formatUs(9.13), '9.13 us');
  assert.equal(formatUs(1500), '1.5 ms');
});

test('formatCount() groups digits', () => {
  assert.equal(formatCount(999), '999');
  assert.equal(formatCount(28_000), '28 000');
  assert.equal(formatCount(1_234_567), '1 234 567');
});
