import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ByteWriter } from './byte-writer.ts';
import { concatenate, fromHex } from './example-stream.ts';
import {
  encodePong,
  encodeRecvBitmap,
  encodeReqPages,
  encodeReqPagesId,
  encodeResumeAck,
  encodeShut,
  encodeSwitchoverAck,
  writeReqPages,
  writeReqPagesId,
} from './return-path.ts';

test('encodeShut() and the other short messages write their bytes', () => {
  assert.deepEqual(encodeShut(0), fromHex('0001 0004 00000000'));
  assert.deepEqual(encodePong(0x42), fromHex('0002 0004 00000042'));
  assert.deepEqual(encodeResumeAck(), fromHex('0006 0004 00000001'));
  assert.deepEqual(encodeSwitchoverAck(), fromHex('0007 0000'));
});

test('encodeReqPagesId() names the block, encodeReqPages() does not', () => {
  assert.deepEqual(
    encodeReqPagesId(0x1_0000_7000, 0x1000, 'pc.ram'),
    fromHex('0003 0013 0000000100007000 00001000 06 70632e72616d'),
  );
  assert.deepEqual(encodeReqPages(0xca000, 0x2000), fromHex('0004 000c 00000000000ca000 00002000'));
});

test('writeReqPagesId() and writeReqPages() write what the encoders do', () => {
  const writer = new ByteWriter(new Uint8Array(64));
  writeReqPagesId(writer, 0x3000, 0x1000, 'b');
  writeReqPages(writer, 0x4000, 0x1000);
  assert.deepEqual(
    writer.subarray(),
    concatenate(encodeReqPagesId(0x3000, 0x1000, 'b'), encodeReqPages(0x4000, 0x1000)),
  );
});

test('encodeRecvBitmap() pads the bitmap to 8 bytes and ends with the mark', () => {
  assert.deepEqual(
    encodeRecvBitmap('m0', Uint8Array.of(0x05)),
    fromHex('0005 0003 02 6d30 0000000000000008 0500000000000000 0123456789abcdef'),
  );
});
