import assert from 'node:assert/strict';
import { test } from 'node:test';
import { EXAMPLE_BLOCKS, fromHex, written } from './example-stream.ts';
import {
  memSizeMaxBytes,
  RamSaveFlag,
  writeMemSize,
  writePageHeader,
  writeRamEos,
  writeZeroPage,
} from './ram-record.ts';

test('writePageHeader() names the block, or says CONTINUE', () => {
  const named = written((writer) => writePageHeader(writer, 0x1234_5678_9000, RamSaveFlag.PAGE, 'pc.ram'));
  assert.deepEqual(named, fromHex('0000123456789008 06 70632e72616d'));
  const continued = written((writer) => writePageHeader(writer, 0xffff_f000, RamSaveFlag.PAGE, null));
  assert.deepEqual(continued, fromHex('00000000fffff028'));
});

test('writeZeroPage() writes a whole record', () => {
  assert.deepEqual(
    written((writer) => writeZeroPage(writer, 0x2000, null)),
    fromHex('0000000000002022 00'),
  );
  assert.deepEqual(
    written((writer) => writeZeroPage(writer, 0, 'b')),
    fromHex('0000000000000002 01 62 00'),
  );
});

test('writeMemSize() lists the blocks, with the size of large host pages only when asked', () => {
  const without = written((writer) => writeMemSize(writer, EXAMPLE_BLOCKS, { withHostPageSize: false }));
  assert.deepEqual(
    without,
    fromHex('0000000000208004 06 70632e72616d 0000000000008000 04 68756765 0000000000200000'),
  );
  const withPageSize = written((writer) => writeMemSize(writer, EXAMPLE_BLOCKS, { withHostPageSize: true }));
  assert.deepEqual(
    withPageSize,
    fromHex(
      '0000000000208004 06 70632e72616d 0000000000008000 04 68756765 0000000000200000 0000000000200000',
    ),
  );
  assert.ok(withPageSize.length <= memSizeMaxBytes(EXAMPLE_BLOCKS));
});

test('writeRamEos() writes the bare flag', () => {
  assert.deepEqual(written(writeRamEos), fromHex('0000000000000010'));
});
