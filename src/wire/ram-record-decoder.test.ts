/** RamRecordDecoder against a twin that is slow and obvious, over records made at random. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { concatenate, EXAMPLE_BLOCKS, examplePage, written } from './example-stream.ts';
import { InputBuffer } from './input-buffer.ts';
import { ExpectedBlocksDecoder } from './mem-size-decoder.ts';
import { RamSaveFlag, TARGET_PAGE_BYTES, writePageHeader, writeRamEos, writeZeroPage } from './ram-record.ts';
import { RamRecordDecoder } from './ram-record-decoder.ts';

interface PageRecord {
  readonly block: 0 | 1;
  readonly pageIndex: number;
  readonly isZero: boolean;
  readonly namesBlock: boolean;
}

const record: fc.Arbitrary<PageRecord> = fc.record({
  block: fc.constantFrom(0, 1),
  pageIndex: fc.nat({ max: 7 }),
  isZero: fc.boolean(),
  namesBlock: fc.boolean(),
});

function encodeRecords(records: readonly PageRecord[]): Uint8Array {
  let lastBlock: number | null = null;
  const parts = records.map(({ block, pageIndex, isZero, namesBlock }) =>
    written((writer) => {
      const idstr = namesBlock || block !== lastBlock ? EXAMPLE_BLOCKS[block].idstr : null;
      lastBlock = block;
      const offset = pageIndex * TARGET_PAGE_BYTES;
      if (isZero) {
        writeZeroPage(writer, offset, idstr);
      } else {
        writePageHeader(writer, offset, RamSaveFlag.PAGE, idstr);
        writer.bytes(examplePage(pageIndex));
      }
    }),
  );
  return concatenate(...parts, written(writeRamEos));
}

/** Byte by byte, with BigInt, believing all it reads. */
function naiveDecode(bytes: Uint8Array): unknown[][] {
  const calls: unknown[][] = [];
  const data = Buffer.from(bytes);
  let position = 0;
  let blockIndex = -1;
  for (;;) {
    const word = data.readBigUInt64BE(position);
    position += 8;
    const flags = Number(word % 4096n);
    const offset = Number(word - BigInt(flags));
    if (flags === 0x10) return [...calls, ['ramSectionEnd']];
    if ((flags & 0x20) === 0) {
      const nameEnd = position + 1 + data[position]!;
      const name = data.toString('latin1', position + 1, nameEnd);
      blockIndex = EXAMPLE_BLOCKS.findIndex((block) => block.idstr === name);
      position = nameEnd;
    }
    if ((flags & 0x08) !== 0) {
      calls.push(['page', blockIndex, offset, Uint8Array.from(data.subarray(position, position + 4096))]);
      position += 4096;
    } else {
      calls.push(['zeroPage', blockIndex, offset]);
      position += 1;
    }
  }
}

function decode(bytes: Uint8Array): unknown[][] {
  const calls: unknown[][] = [];
  const input = new InputBuffer(bytes, 'stream');
  const decoder = new RamRecordDecoder(input, new ExpectedBlocksDecoder(input, EXAMPLE_BLOCKS), {
    ramBlocks: () => assert.fail('no blocks are announced'),
    page: (blockIndex, offset, at) => calls.push(['page', blockIndex, offset, bytes.slice(at, at + 4096)]),
    zeroPage: (blockIndex, offset) => calls.push(['zeroPage', blockIndex, offset]),
    ramSectionEnd: () => calls.push(['ramSectionEnd']),
  });
  decoder.blocks = EXAMPLE_BLOCKS;
  input.commit(bytes.length);
  decoder.beginSection(false);
  while (decoder.inSection) assert.ok(decoder.step());
  assert.equal(input.available, 0);
  return calls;
}

test('RamRecordDecoder agrees with its naive twin', () => {
  fc.assert(
    fc.property(fc.array(record, { maxLength: 30 }), (records) => {
      const bytes = encodeRecords(records);
      assert.deepEqual(decode(bytes), naiveDecode(bytes));
    }),
  );
});
