import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeVmDescription } from './device-walk.ts';

const TEXT = /^Cannot read the VM description: [\x20-\x7e]{1,100} \(stream byte 7\)$/;

for (const [what, json] of [
  ['bytes that are no JSON', '{"devices":\x1b[2J'],
  ['a name with a control character', '{"devices":[{"name":"\\u001b[2J","instance_id":0}]}'],
  ['a name longer than any on the wire', `{"devices":[{"name":"${'a'.repeat(5000)}","instance_id":0}]}`],
  ['fields that are no list', '{"devices":[{"name":"a","instance_id":0,"fields":{"\\u009b":1}}]}'],
] as const) {
  test(`decodeVmDescription() refuses ${what}, in words that can be shown`, () => {
    assert.throws(() => decodeVmDescription(Buffer.from(json), 7), { code: 'BAD_VALUE', message: TEXT });
  });
}

test('decodeVmDescription() follows subsections so deep, and no deeper', () => {
  const nested = (depth: number): object =>
    depth === 0 ? {} : { vmsd_name: 's', fields: [{ size: 1 }], subsections: [nested(depth - 1)] };
  const describe = (depth: number) => {
    const subsections = depth === 0 ? [] : [{ ...nested(depth), vmsd_name: 's' }];
    return Buffer.from(JSON.stringify({ devices: [{ name: 'a', instance_id: 0, subsections }] }));
  };
  // The innermost has no name.
  const named = (depth: number) => Buffer.from(String(describe(depth)).replace('{}', '{"vmsd_name":"s"}'));
  assert.equal(decodeVmDescription(named(63))[0]?.bodyBytes, 63 * 8 + 7);
  assert.throws(() => decodeVmDescription(named(64)), { code: 'BAD_VALUE', message: /deeper than 64/ });
});
