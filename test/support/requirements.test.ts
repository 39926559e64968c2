import assert from 'node:assert/strict';
import { afterEach, test } from 'node:test';
import { skipUnless } from './requirements.ts';

const NAME = 'POSTCOPY_TEST_REQUIRE_ALL';
const before = process.env[NAME];

afterEach(() => {
  if (before === undefined) delete process.env[NAME];
  else process.env[NAME] = before;
});

function skipping(isThere: boolean): { isGoingOn: boolean; reasons: string[] } {
  const reasons: string[] = [];
  const isGoingOn = skipUnless({ skip: (why) => reasons.push(why) }, 'IPv6', isThere, 'no address ::1');
  return { isGoingOn, reasons };
}

test('skipUnless() lets a test go on whose needs are met', () => {
  process.env[NAME] = '1';
  assert.deepEqual(skipping(true), { isGoingOn: true, reasons: [] });
});

test('skipUnless() skips with the reason', () => {
  delete process.env[NAME];
  assert.deepEqual(skipping(false), { isGoingOn: false, reasons: ['IPv6: no address ::1'] });
  process.env[NAME] = '0';
  assert.deepEqual(skipping(false), { isGoingOn: false, reasons: ['IPv6: no address ::1'] });
});

test('skipUnless() fails instead of skipping where everything must be there', () => {
  process.env[NAME] = '1';
  assert.throws(() => skipping(false), /IPv6 is missing.*no address ::1/);
});
