import assert from 'node:assert/strict';
import { test } from 'node:test';
import { STALL_MS, StallWatch } from './stall-watch.ts';

test('StallWatch tells once that nothing moves, and again after something has', () => {
  const watch = new StallWatch();
  assert.equal(watch.note(0, 100), false);
  assert.equal(watch.note(0, 99 + STALL_MS), false);
  assert.equal(watch.note(0, 100 + STALL_MS), true);
  assert.equal(watch.note(0, 900 + STALL_MS), false);
  assert.equal(watch.note(1, 1000 + STALL_MS), false);
  assert.equal(watch.note(1, 1000 + 2 * STALL_MS), true);
});
