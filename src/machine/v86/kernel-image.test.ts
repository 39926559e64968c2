import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { kernelKindOf } from './kernel-image.ts';

/** An image with these words at `at`. */
function imageWith(at: number, words: readonly number[], lengthBytes = 16_384): Uint8Array {
  const image = new DataView(new ArrayBuffer(lengthBytes));
  words.forEach((word, index) => {
    image.setUint32(at + index * 4, word, true);
  });
  return new Uint8Array(image.buffer);
}

const MULTIBOOT = [0x1badb002, 0x00010002, -(0x1badb002 + 0x00010002)];

describe('kernelKindOf()', () => {
  test('knows a multiboot header anywhere in the first 8 KiB', () => {
    for (const at of [0, 4, 4096, 8192 - 12])
      assert.equal(kernelKindOf(imageWith(at, MULTIBOOT), 'k'), 'multiboot');
  });

  test('knows a Linux bzImage', () => {
    assert.equal(kernelKindOf(imageWith(0x202, [0x53726448]), 'k'), 'bzimage');
  });

  for (const [what, image] of [
    ['an empty file', new Uint8Array(0)],
    ['a header with a wrong checksum', imageWith(0, [0x1badb002, 0x10002, 1])],
    ['a header that is not aligned', imageWith(2, MULTIBOOT)],
    ['a header that begins too late', imageWith(8192 - 8, MULTIBOOT)],
    ['a header that is cut off', imageWith(0, MULTIBOOT).slice(0, 8)],
  ] as const) {
    test(`refuses ${what}`, () => {
      assert.throws(() => kernelKindOf(image, '/boot/x'), {
        name: 'TypeError',
        message: /^Cannot boot "\/boot\/x"/,
      });
    });
  }
});
