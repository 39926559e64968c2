import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  decodeGlobalState,
  encodeGlobalState,
  encodeLengthPrefixed,
  writeDeviceSection,
} from './device-sections.ts';
import { fromHex } from './example-stream.ts';

test('encodeGlobalState() writes the run state as QEMU does', () => {
  const body = encodeGlobalState('running');
  assert.deepEqual(body, fromHex(`00000008 72756e6e696e6700 ${'00'.repeat(92)}`));
  assert.equal(decodeGlobalState(body), 'running');
});

test('writeDeviceSection() writes header, body and footer', () => {
  const body = encodeLengthPrefixed(Uint8Array.of(0xaa, 0xbb));
  assert.deepEqual(
    writeDeviceSection({ sectionId: 5, idstr: 'v86', instanceId: 1, versionId: 2, body }),
    fromHex('04 00000005 03 763836 00000001 00000002 00000002 aabb 7e 00000005'),
  );
});

test('decodeGlobalState() refuses sizes that do not fit', () => {
  const refuse = (body: Uint8Array, code: string, at: number) =>
    assert.throws(() => decodeGlobalState(body, 50), { name: 'StreamError', code, at });
  refuse(new Uint8Array(103), 'BAD_LENGTH', 50);
  refuse(fromHex(`00000000 ${'00'.repeat(100)}`), 'BAD_LENGTH', 50);
  refuse(fromHex(`00000065 ${'41'.repeat(100)}`), 'BAD_LENGTH', 50);
  refuse(fromHex(`00000064 ${'41'.repeat(100)}`), 'BAD_VALUE', 54);
  refuse(fromHex(`00000008 72756e0000000000 ${'00'.repeat(92)}`), 'BAD_VALUE', 54);
});
