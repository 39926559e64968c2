import assert from 'node:assert/strict';
import { test } from 'node:test';
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
