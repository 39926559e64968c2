import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { fromHex } from './example-stream.ts';
import { applyXbzrle, checkXbzrle } from './xbzrle.ts';

const PAGE_BYTES = 4096;

/** The naive twin of the decoder: pairs of runs for what differs. */
function encode(before: Uint8Array, after: Uint8Array): number[] {
  const uleb = (value: number) => (value < 0x80 ? [value] : [(value & 0x7f) | 0x80, value >> 7]);
  const delta: number[] = [];
  for (let position = 0; ; ) {
    const kept = position;
    while (position < PAGE_BYTES && before[position] === after[position]) position++;
    if (position === PAGE_BYTES) return delta;
    const changed = position;
    while (position < PAGE_BYTES && before[position] !== after[position]) position++;
    delta.push(...uleb(changed - kept), ...uleb(position - changed), ...after.subarray(changed, position));
  }
}

test('applyXbzrle() changes the bytes of each run and keeps the others', () => {
  const page = new Uint8Array(PAGE_BYTES).fill(0xee);
  // 0 kept, 2 new; 128 kept, 1 new.
  applyXbzrle(fromHex('00 02 aabb 8001 01 cc'), page);
  const expected = new Uint8Array(PAGE_BYTES).fill(0xee);
  expected.set([0xaa, 0xbb], 0);
  expected[130] = 0xcc;
  assert.deepEqual(page, expected);
});

test('applyXbzrle() reaches the last byte of the page', () => {
  const page = new Uint8Array(PAGE_BYTES);
  applyXbzrle(fromHex('ff1f 01 5a'), page);
  assert.equal(page[4095], 0x5a);
});

test('applyXbzrle() makes of one page any other', () => {
  const content = fc.uint8Array({ minLength: PAGE_BYTES, maxLength: PAGE_BYTES, max: 2 });
  fc.assert(
    fc.property(content, content, (before, after) => {
      const page = before.slice();
      const delta = Uint8Array.from(encode(before, after));
      checkXbzrle(delta);
      applyXbzrle(delta, page);
      assert.deepEqual(page, after);
    }),
    { numRuns: 50 },
  );
});

for (const { what, delta, code, at } of [
  { what: 'an empty run of new bytes', delta: '05 00', code: 'BAD_VALUE', at: 101 },
  { what: 'an empty run of kept bytes later on', delta: '00 01 aa 00 01 bb', code: 'BAD_VALUE', at: 103 },
  { what: 'a pair without its second number', delta: '00 01 aa 05', code: 'BAD_LENGTH', at: 104 },
  { what: 'half a number', delta: '00 01 aa 80', code: 'BAD_LENGTH', at: 103 },
  { what: 'a number of three bytes', delta: '8080 01 01 aa', code: 'BAD_VALUE', at: 100 },
  { what: 'fewer new bytes than it says', delta: '00 03 aabb', code: 'BAD_LENGTH', at: 102 },
  {
    what: 'a run that begins in the page and ends outside',
    delta: 'ff1f 02 aabb',
    code: 'BAD_LENGTH',
    at: 100,
  },
  {
    what: 'runs that end outside of the page together',
    delta: 'ff1f 01 aa 01 01 bb',
    code: 'BAD_LENGTH',
    at: 104,
  },
]) {
  test(`applyXbzrle() and checkXbzrle() refuse ${what}`, () => {
    const error = { name: 'StreamError', code, at };
    assert.throws(() => applyXbzrle(fromHex(delta), new Uint8Array(PAGE_BYTES), 100), error);
    assert.throws(() => checkXbzrle(fromHex(delta), 100), error);
  });
}
