import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { DiskImage } from './disk-image.ts';

const read = (disk: DiskImage, start: number, lengthBytes: number): Uint8Array => {
  let bytes: Uint8Array | undefined;
  disk.get(start, lengthBytes, (got) => {
    bytes = got;
  });
  return bytes!;
};

function withFile(bytes: Uint8Array, body: (path: string) => void): void {
  const directory = mkdtempSync(join(tmpdir(), 'disk-image-'));
  try {
    writeFileSync(join(directory, 'disk'), bytes);
    body(join(directory, 'disk'));
  } finally {
    rmSync(directory, { recursive: true });
  }
}

describe('DiskImage', () => {
  const content = Uint8Array.from({ length: 10_000 }, (_, index) => index % 251);

  test('get() reads the file, and zeros beyond its end', () => {
    withFile(content, (path) => {
      const disk = DiskImage.open(path);
      assert.equal(disk.byteLength, 10_000);
      assert.deepEqual(read(disk, 4000, 5000), content.slice(4000, 9000));
      assert.deepEqual(read(disk, 9999, 3), Uint8Array.of(content[9999]!, 0, 0));
      disk.close();
      disk.close();
    });
  });

  test('set() hides the file and leaves it as it is', () => {
    withFile(content, (path) => {
      const disk = DiskImage.open(path);
      const expected = content.slice();
      expected.fill(255, 4000, 8300);
      disk.set(4000, new Uint8Array(4300).fill(255), () => {});
      assert.deepEqual(read(disk, 0, 10_000), expected);
      assert.deepEqual(new Uint8Array(readFileSync(path)), content);
      disk.close();
    });
  });

  test('set_state() takes on what another disk of the same file was written', () => {
    const source = DiskImage.blank(20_000);
    const destination = DiskImage.blank(20_000);
    source.set(5000, Uint8Array.of(1, 2, 3), () => {});
    source.set(19_999, Uint8Array.of(9), () => {});
    destination.set(0, Uint8Array.of(4), () => {});
    destination.set_state(source.get_state());
    assert.deepEqual(read(destination, 0, 20_000), read(source, 0, 20_000));
    source.set(5000, Uint8Array.of(0), () => {});
    assert.equal(read(destination, 5000, 1)[0], 1, 'the state is a copy');
  });

  for (const [what, state] of [
    ['of another size', [20_001, new Uint32Array(0), new Uint8Array(0)]],
    ['without blocks', [20_000, null, null]],
    ['that is no list', null],
    ['with a block beyond the end', [20_000, Uint32Array.of(5), new Uint8Array(4096)]],
    ['with bytes missing', [20_000, Uint32Array.of(1), new Uint8Array(4095)]],
  ] as const) {
    test(`set_state() refuses a state ${what}`, () => {
      assert.throws(() => DiskImage.blank(20_000).set_state(state as never), { name: 'RangeError' });
    });
  }
});
