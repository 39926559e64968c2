import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { LineReader, MAX_LINE_BYTES } from './line-reader.ts';

test('LineReader yields the same lines however the stream is cut', () => {
  const stream = Buffer.from('info status\r\n\nmigrate "é"\nlast');
  for (let cut = 0; cut <= stream.length; cut++) {
    const reader = new LineReader();
    const lines = [...reader.push(stream.subarray(0, cut)), ...reader.push(stream.subarray(cut))];
    assert.deepEqual(lines, ['info status', '', 'migrate "é"'], `cut at ${cut}`);
    assert.equal(reader.end(), 'last');
    assert.equal(reader.end(), undefined);
  }
});

test('LineReader drops a line that is too long, and goes on with the next', () => {
  const reader = new LineReader();
  const half = Buffer.alloc(MAX_LINE_BYTES / 2 + 1, 'x');
  const lines = [half, half, Buffer.from('\nnext\n')].flatMap((chunk) => [...reader.push(chunk)]);
  assert.deepEqual(lines, [null, 'next']);
});

test('LineReader yields any lines that were sent, however they are cut', () => {
  const line = fc.string({ unit: 'binary' }).filter((text) => !/[\r\n]/.test(text));
  const lengths = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 });
  fc.assert(
    fc.property(
      fc.array(fc.tuple(line, fc.constantFrom('\n', '\r\n'))),
      line,
      lengths,
      (lines, last, pieces) => {
        const stream = Buffer.from(lines.map(([text, end]) => text + end).join('') + last);
        const reader = new LineReader();
        const read: (string | null)[] = [];
        for (let at = 0, index = 0; at < stream.length; index++) {
          const length = pieces[index % pieces.length] as number;
          read.push(...reader.push(stream.subarray(at, at + length)));
          at += length;
        }
        assert.deepEqual(
          read,
          lines.map(([text]) => Buffer.from(text).toString()),
        );
        assert.equal(reader.end(), last === '' ? undefined : Buffer.from(last).toString());
      },
    ),
    { numRuns: 40 },
  );
});
