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
