import assert from 'node:assert/strict';
import { test } from 'node:test';
import { StreamError } from '../wire/stream-error.ts';
import { MAX_QUEUED_REQUESTS, PageRequestQueue } from './page-request-queue.ts';

test('PageRequestQueue serves single pages in the order they came', () => {
  const queue = new PageRequestQueue();
  assert.ok(queue.isEmpty);
  queue.push(1, 7, 1, 50, 0);
  queue.push(0, 3, 1, 51, 0);
  assert.deepEqual(queue.first(), { block: 1, page: 7, endPage: 8, queuedAtMs: 50, isRange: false });
  queue.removeFirst();
  assert.deepEqual(queue.first(), { block: 0, page: 3, endPage: 4, queuedAtMs: 51, isRange: false });
  queue.removeFirst();
  assert.ok(queue.isEmpty);
  assert.throws(() => queue.first());
});

test('PageRequestQueue serves a page that a guest waits for before ranges, also half served ones', () => {
  const queue = new PageRequestQueue();
  queue.push(0, 100, 64, 50, 0);
  queue.push(0, 200, 64, 51, 0);
  queue.first().page += 10;
  queue.push(1, 7, 1, 52, 0);
  assert.equal(queue.length, 3);
  assert.deepEqual(queue.first(), { block: 1, page: 7, endPage: 8, queuedAtMs: 52, isRange: false });
  queue.removeFirst();
  assert.deepEqual(queue.first(), { block: 0, page: 110, endPage: 164, queuedAtMs: 50, isRange: true });
  queue.removeFirst();
  assert.equal(queue.first().page, 200);
});

test('PageRequestQueue keeps the order while it is cut', () => {
  const queue = new PageRequestQueue();
  let pushed = 0;
  for (let taken = 0; taken < 10_000; taken++) {
    while (pushed < taken + 1500) queue.push(0, pushed++, 1, 0, 0);
    assert.equal(queue.first().page, taken);
    queue.removeFirst();
  }
});

test('PageRequestQueue is bounded by what waits, not by what came', () => {
  const queue = new PageRequestQueue();
  for (let count = 0; count < MAX_QUEUED_REQUESTS; count++) queue.push(0, count, 1, 0, 0);
  assert.throws(
    () => queue.push(0, 0, 1, 0, 1234),
    (error) => error instanceof StreamError && error.code === 'LIMIT' && error.at === 1234,
  );
  queue.removeFirst();
  queue.push(0, 0, 1, 0, 0);
  assert.throws(() => queue.push(0, 0, 1, 0, 0), /at most 65536 may wait/);
});
