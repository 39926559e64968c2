import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ByteWriter } from './byte-writer.ts';

const hexOf = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

test('ByteWriter writes big-endian numbers and counted strings', () => {
  const writer = new ByteWriter(new Uint8Array(32));
  writer.u8(0xab);
  writer.u16(0x0102);
  writer.u32(0xfedcba98);
  writer.u64(0x1f_ffff_ffff_ffff);
  writer.cstr('ram');
  writer.bytes(Uint8Array.of(9, 8));
  assert.equal(hexOf(writer.subarray()), 'ab0102fedcba98001fffffffffffff0372616d0908');
  assert.equal(writer.remaining, 32 - 21);
});

test('ByteWriter begins at a position and writes into a view of larger memory', () => {
  const memory = new Uint8Array(8).fill(0xee);
  const writer = new ByteWriter(memory.subarray(2, 6), 1);
  writer.u16(0x1234);
  assert.equal(hexOf(memory), 'eeeeee1234eeeeee');
  assert.equal(hexOf(writer.subarray()), 'ee1234');
});

test('ByteWriter.u64() refuses what is not a safe integer', () => {
  const writer = new ByteWriter(new Uint8Array(8));
  for (const value of [-1, 0.5, 2 ** 53, Number.NaN]) {
    assert.throws(() => writer.u64(value), { name: 'RangeError' });
  }
  assert.equal(writer.position, 0);
});

test('ByteWriter asserts on a write past the end, a number too large, and a bad name', () => {
  const writer = new ByteWriter(new Uint8Array(300), 298);
  assert.throws(() => writer.u32(1), { code: 'ERR_ASSERTION' });
  assert.throws(() => writer.bytes(new Uint8Array(3)), { code: 'ERR_ASSERTION' });
  assert.throws(() => writer.u8(256), { code: 'ERR_ASSERTION' });
  writer.position = 0;
  assert.throws(() => writer.cstr(''), { code: 'ERR_ASSERTION' });
  assert.throws(() => writer.cstr('x'.repeat(256)), { code: 'ERR_ASSERTION' });
  assert.throws(() => writer.cstr('ä'), { code: 'ERR_ASSERTION' });
});
