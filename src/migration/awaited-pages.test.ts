import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PageBitmap } from '../memory/page-bitmap.ts';
import { StreamError } from '../wire/stream-error.ts';
import { AwaitedPages } from './awaited-pages.ts';
import { MAX_QUEUED_REQUESTS } from './page-request-queue.ts';

function take(awaited: AwaitedPages): string[] {
  const taken: string[] = [];
  awaited.takeArrived((block, page, askedAtMs) => taken.push(`${block}:${page} ${askedAtMs}`));
  return taken;
}

test('AwaitedPages keeps what cannot be read, and gives it out once, oldest first', () => {
  const available = [new PageBitmap(40), new PageBitmap(40)];
  available[0]?.set(3);
  const awaited = new AwaitedPages(available);
  assert.equal(awaited.add(0, 3, 1, 0, 0), false);
  assert.equal(awaited.add(1, 3, 2, 0, 0), true);
  assert.equal(awaited.add(0, 9, 3, 0, 0), true);
  assert.equal(awaited.add(1, 3, 4, 0, 0), true, 'asked for again: the first time counts');
  assert.equal(awaited.count, 2);
  assert.deepEqual(take(awaited), []);
  available[0]?.set(9);
  assert.deepEqual(take(awaited), ['0:9 3']);
  available[1]?.set(3);
  assert.deepEqual(take(awaited), ['1:3 2']);
  assert.deepEqual(take(awaited), []);
  assert.equal(awaited.count, 0);
});

test('AwaitedPages is bounded', () => {
  const awaited = new AwaitedPages([new PageBitmap(MAX_QUEUED_REQUESTS + 1)]);
  for (let page = 0; page < MAX_QUEUED_REQUESTS; page++) awaited.add(0, page, 0, 0, 0);
  assert.throws(
    () => awaited.add(0, MAX_QUEUED_REQUESTS, 0, 0, 77),
    (error) => error instanceof StreamError && error.code === 'LIMIT' && error.at === 77,
  );
});
