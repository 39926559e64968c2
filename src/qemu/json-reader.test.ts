import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { AllocationMeter } from '../../test/fuzz/allocation-meter.ts';
import { type JsonItem, JsonReader, MAX_MESSAGE_BYTES, MAX_NESTING } from './json-reader.ts';

const read = (...chunks: (string | Uint8Array)[]): JsonItem[] => {
  const reader = new JsonReader();
  return chunks.flatMap((chunk) => [...reader.push(typeof chunk === 'string' ? Buffer.from(chunk) : chunk)]);
};

const errorsOf = (items: JsonItem[]) => items.map((item) => ('error' in item ? item.error : item.value));

test('JsonReader takes messages with and without blanks between', () => {
  assert.deepEqual(read('{"a":1}{"b":[2,{"c":3}]}\r\n\t [4]\n{}'), [
    { value: { a: 1 } },
    { value: { b: [2, { c: 3 }] } },
    { value: [4] },
    { value: {} },
  ]);
});

test('JsonReader yields the same however the stream is cut', () => {
  const stream = Buffer.from('{"é\\"}":"{\\\\"} garbage\n{"a":[]}{bad}\n{"x":"\u{1f600}"}');
  const whole = read(stream);
  assert.equal(whole.length, 5);
  assert.deepEqual(whole[0], { value: { 'é"}': '{\\' } });
  for (let first = 0; first <= stream.length; first++) {
    for (let second = first; second <= stream.length; second++) {
      assert.deepEqual(
        read(stream.subarray(0, first), stream.subarray(first, second), stream.subarray(second)),
        whole,
        `cut at ${first} and ${second}`,
      );
    }
  }
});

test('JsonReader reports a word of garbage once, and goes on at the next brace or line', () => {
  const expecting = 'JSON parse error, expecting an object';
  assert.deepEqual(errorsOf(read('garbage "more"\n{"a":1}')), [expecting, { a: 1 }]);
  assert.deepEqual(errorsOf(read('garbage{"a":1}')), [expecting, { a: 1 }]);
  assert.deepEqual(errorsOf(read('12\n')), [expecting]);
  assert.deepEqual(errorsOf(read(Uint8Array.of(0xff, 0x00), '{"a":1}')), [
    'JSON parse error, stray control character',
    'JSON parse error, stray control character',
    { a: 1 },
  ]);
});

test('JsonReader reports what is even in braces and yet no JSON', () => {
  for (const text of ['{bad}', '{"a":1,}', '}', '[}', '{"a" "b"}', "{'a':1}"]) {
    const [first, ...rest] = errorsOf(read(`${text}\n{"next":true}`));
    assert.match(String(first), /^JSON parse error, /, text);
    assert.deepEqual(rest, [{ next: true }], text);
  }
});

test('JsonReader gives an unclosed string up at the end of the line', () => {
  assert.deepEqual(errorsOf(read('{"a": "b\n{"c":1}')), [
    'JSON parse error, control character in a string',
    { c: 1 },
  ]);
});

test('JsonReader is forced into a known state by the byte 0xff', () => {
  assert.deepEqual(errorsOf(read('{"a": [[[', Uint8Array.of(0xff), '{"c":1}')), [
    'JSON parse error, stray byte',
    { c: 1 },
  ]);
  assert.deepEqual(errorsOf(read('{"a": "', Uint8Array.of(0xff), '{"c":1}')), [
    'JSON parse error, control character in a string',
    { c: 1 },
  ]);
});

test('JsonReader refuses text that is not UTF-8', () => {
  const [first, second] = errorsOf(read('{"a":"', Uint8Array.of(0xc3, 0x28), '"}{"b":1}'));
  assert.match(String(first), /^JSON parse error, /);
  assert.deepEqual(second, { b: 1 });
});

test('JsonReader refuses a message that is too long, once, and goes on in the next line', () => {
  const filler = Buffer.alloc(MAX_MESSAGE_BYTES / 4, 'x');
  const items = read('{"a":"', filler, filler, filler, filler, filler, '"}{"b":1}\n{"c":1}');
  assert.deepEqual(errorsOf(items), [
    `JSON parse error, message is longer than ${MAX_MESSAGE_BYTES} bytes`,
    { c: 1 },
  ]);
  const longest = `{"a":"${'x'.repeat(MAX_MESSAGE_BYTES - 8)}"}`;
  assert.equal(Buffer.byteLength(longest), MAX_MESSAGE_BYTES);
  assert.ok('value' in read(longest)[0]!);
});

test('JsonReader refuses nesting that is too deep', () => {
  const deep = (depth: number) => '['.repeat(depth) + ']'.repeat(depth);
  assert.ok('value' in read(deep(MAX_NESTING))[0]!);
  assert.equal(errorsOf(read(deep(MAX_NESTING + 1)))[0], 'JSON parse error, nesting is deeper than 1024');
});

test('JsonReader takes a message that comes byte by byte, for no more memory than it is long', async () => {
  const message = Buffer.from(JSON.stringify({ text: 'x'.repeat(100_000) }));
  const meter = new AllocationMeter();
  const reader = new JsonReader();
  const items: unknown[] = [];
  await meter.run(() => {
    for (let at = 0; at < message.length; at++) items.push(...reader.push(message.subarray(at, at + 1)));
  });
  assert.deepEqual(items, [{ value: JSON.parse(message.toString()) }]);
  assert.ok(meter.allocatedBytes < 4 * message.length, `${meter.allocatedBytes} bytes`);
});

test('JsonReader yields any messages that were sent, however they are cut, and no part of one', () => {
  const message = fc.oneof(fc.dictionary(fc.string(), fc.jsonValue()), fc.array(fc.jsonValue()));
  const lengths = fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1 });
  const blank = fc.constantFrom('', '\r\n', ' ', '\n\t');
  fc.assert(
    fc.property(fc.array(fc.tuple(message, blank)), lengths, message, (messages, pieces, last) => {
      const whole = Buffer.from(messages.map(([value, after]) => JSON.stringify(value) + after).join(''));
      const cut = Buffer.from(JSON.stringify(last)).subarray(0, -1);
      const stream = Buffer.concat([whole, cut]);
      const chunks: Buffer[] = [];
      for (let at = 0, index = 0; at < stream.length; index++) {
        const length = pieces[index % pieces.length] as number;
        chunks.push(stream.subarray(at, at + length));
        at += length;
      }
      assert.deepEqual(
        read(...chunks),
        messages.map(([value]) => ({ value: JSON.parse(JSON.stringify(value)) })),
      );
    }),
  );
});
