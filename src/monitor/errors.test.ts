import assert from 'node:assert/strict';
import { test } from 'node:test';
import { VmError } from '../vm/vm.ts';
import { describeError, isInternalError, QmpError } from './errors.ts';

test('describeError() gives class and text', () => {
  assert.deepEqual(describeError(new QmpError('no such', 'CommandNotFound')), {
    class: 'CommandNotFound',
    desc: 'no such',
  });
  assert.deepEqual(describeError(new VmError('refused')), { class: 'GenericError', desc: 'refused' });
  assert.deepEqual(describeError('thrown text'), {
    class: 'GenericError',
    desc: 'internal error: thrown text',
  });
});

test('isInternalError() tells mistakes of ours from what the world does', () => {
  const caught = (attempt: () => void): unknown => {
    try {
      attempt();
    } catch (error) {
      return error;
    }
    return undefined;
  };
  for (const error of [
    new TypeError('x'),
    new ReferenceError('x'),
    caught(() => JSON.parse('{')),
    caught(() => assert.equal(1, 2)),
    undefined,
  ]) {
    assert.equal(isInternalError(error), true, String(error));
  }
  for (const error of [
    new VmError('x'),
    new RangeError('x'),
    new Error('x'),
    new (class extends SyntaxError {})('x'),
  ]) {
    assert.equal(isInternalError(error), false, String(error));
  }
});
