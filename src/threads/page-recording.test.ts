import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PageRecording } from './page-recording.ts';

const page = (block: number, firstPage: number) => ({ block, firstPage, pageCount: 1 });

test('PageRecording keeps the order of requests, and joins those that follow each other', () => {
  const recording = PageRecording.allocate(100);
  for (const run of [page(0, 7), page(0, 8), page(1, 9), page(0, 9), page(0, 5)]) recording.add(run);
  const seen = new PageRecording(recording.words);
  assert.equal(seen.requests, 5);
  assert.deepEqual(seen.runs(), [
    { block: 0, firstPage: 7, pageCount: 2 },
    page(1, 9),
    page(0, 9),
    page(0, 5),
  ]);
});

test('PageRecording leaves out what it has no room for, and still counts it', () => {
  const recording = PageRecording.allocate(2);
  for (const run of [page(0, 1), page(0, 5), page(0, 9), page(0, 10)]) recording.add(run);
  assert.equal(recording.requests, 4);
  assert.deepEqual(recording.runs(), [page(0, 1), page(0, 5)]);
});
