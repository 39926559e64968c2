import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LatencyRecorder } from './latency-recorder.ts';

test('LatencyRecorder says nothing when nothing was recorded', () => {
  assert.equal(new LatencyRecorder().summary(), undefined);
});

test('LatencyRecorder sums a distribution up', () => {
  const recorder = new LatencyRecorder();
  for (let us = 1; us <= 1000; us++) recorder.record(us);
  assert.deepEqual(recorder.summary(), {
    count: 1000,
    min: 1,
    mean: 500.5,
    p50: 500,
    p90: 900,
    p99: 990,
    'p99.9': 999,
    max: 1000,
  });
});

test('LatencyRecorder rounds to whole microseconds, from 1 up to ten minutes', () => {
  const recorder = new LatencyRecorder();
  recorder.record(0.2);
  assert.equal(recorder.summary()?.max, 1);
  recorder.record(7.6);
  assert.equal(recorder.summary()?.max, 8);
  recorder.record(1e15);
  const most = recorder.summary()?.max ?? 0;
  assert.ok(Math.abs(most - 600_000_000) < 600_000, `${most}`);
});
