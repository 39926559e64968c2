import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { StateValue } from './state-codec.ts';
import { checkStateShape } from './state-shape.ts';

const RULES = { free: ['2', '3.*.1'], equal: { '0': 'memory size' } };
const OWN: StateValue = [16, [1, 'ide0', new Uint8Array(4)], [1, 2], [[0, []]], null];

describe('checkStateShape()', () => {
  test('accepts other values in the same shape', () => {
    checkStateShape(OWN, [16, [7, 'ide0', Uint8Array.of(1, 2, 3, 4)], [1, 2], [[true, []]], 5], RULES);
  });

  test('accepts anything where it is free', () => {
    checkStateShape(OWN, [16, [1, 'ide0', new Uint8Array(4)], 'x', [[0, new Uint8Array(9)]], null], RULES);
  });

  for (const [what, loaded, message] of [
    ['a value that must be equal', [17, [], [], [], null], /memory size must be 16, got 17/],
    ['a list of another length', [16, [1], [], [], null], /1 must be a list of 3 here, got a list of 1/],
    [
      'an array of another length',
      [16, [1, 'ide0', new Uint8Array(5)], [], [], null],
      /1\.2 must be a Uint8Array of 4/,
    ],
    ['an array of another type', [16, [1, 'ide0', new Int8Array(4)], [], [], null], /got a Int8Array of 4/],
    ['a value in place of a list', [16, 5, [], [], null], /1 must be a list of 3 here, got a value/],
    [
      'a list in place of a value',
      [16, [[], 'ide0', new Uint8Array(4)], [], [], null],
      /1\.0 must be a value/,
    ],
    [
      'another name',
      [16, [1, 'ide1', new Uint8Array(4)], [], [], null],
      /1\.1 must be "ide0" here, got "ide1"/,
    ],
    ['a value in place of all', null, /must be a list of 5/],
  ] as const) {
    test(`refuses ${what}`, () => {
      assert.throws(() => checkStateShape(OWN, loaded as StateValue, RULES), {
        name: 'DeviceStateError',
        message,
      });
    });
  }
});
