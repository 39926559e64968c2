import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import * as example from './example-stream.ts';
import {
  concatenate,
  EXAMPLE_BLOCKS,
  examplePage,
  feed,
  recordingDecoder,
  written,
} from './example-stream.ts';
import { crc32, crc32InJavaScript, PageChecksums } from './page-checksum.ts';
import { RamSaveFlag, TARGET_PAGE_BYTES, writePageHeader, writeZeroPage } from './ram-record.ts';

const checksums = new PageChecksums(EXAMPLE_BLOCKS);

function checkedPage(block: 0 | 1, offset: number, seed: number, isNamed: boolean): Uint8Array {
  const content = examplePage(seed);
  return written((writer) => {
    writePageHeader(writer, offset, RamSaveFlag.PAGE, isNamed ? EXAMPLE_BLOCKS[block].idstr : null, true);
    writer.bytes(content);
    writer.u32(checksums.ofPage(block, offset, content, 0));
  });
}

function checkedZeroPage(block: 0 | 1, offset: number, isNamed: boolean): Uint8Array {
  return written((writer) => {
    const idstr = isNamed ? EXAMPLE_BLOCKS[block].idstr : null;
    writeZeroPage(writer, offset, idstr, checksums.ofZeroPage(block, offset));
  });
}

const head = concatenate(
  example.fileHeader,
  example.ramStart({ withHostPageSize: false }),
  example.ramEosAndFooter,
  example.ramPart,
);
const records = concatenate(
  checkedPage(0, 0x1000, 1, true),
  checkedPage(0, 0x3000, 2, false),
  checkedZeroPage(0, 0x4000, false),
  checkedZeroPage(1, 0x1000, true),
  checkedPage(1, 0x2000, 3, false),
);
const stream = concatenate(head, records, example.ramEosAndFooter);

/** What the handler is told of pages, and the error that ends it. */
function decode(bytes: Uint8Array): {
  pages: unknown[][];
  error: (Error & { code?: string; at?: number }) | undefined;
} {
  const { decoder, handler } = recordingDecoder();
  let error: Error | undefined;
  try {
    feed(decoder, bytes);
  } catch (caught) {
    error = caught as Error;
  }
  return { pages: handler.calls.filter(([name]) => name === 'page' || name === 'zeroPage'), error };
}

test('crc32() is that of zlib, with and without zlib', () => {
  const text = Buffer.from('123456789');
  for (const each of [crc32, crc32InJavaScript]) {
    assert.equal(each(text), 0xcbf43926);
    assert.equal(each(text.subarray(4), each(text.subarray(0, 4))), 0xcbf43926);
    assert.equal(each(Buffer.alloc(0)), 0);
  }
  fc.assert(
    fc.property(fc.uint8Array(), fc.integer({ min: 0, max: 0xffff_ffff }), (bytes, value) => {
      assert.equal(crc32InJavaScript(bytes, value), crc32(bytes, value));
    }),
  );
});

test('PageChecksums differ by block, by place and by kind', () => {
  const page = examplePage(1);
  const all = [
    checksums.ofPage(0, 0, page, 0),
    checksums.ofPage(1, 0, page, 0),
    checksums.ofPage(0, 0x1000, page, 0),
    checksums.ofPage(0, 2 ** 40, page, 0),
    checksums.ofZeroPage(0, 0),
    checksums.ofZeroPage(1, 0),
    checksums.ofZeroPage(0, 2 ** 40),
    checksums.ofPage(0, 0, new Uint8Array(TARGET_PAGE_BYTES), 0),
  ];
  assert.equal(new Set(all).size, all.length);
});

test('StreamDecoder takes pages with checksums, also byte by byte', () => {
  const { pages, error } = decode(stream);
  assert.equal(error, undefined);
  assert.deepEqual(pages, [
    ['page', 0, 0x1000, examplePage(1)],
    ['page', 0, 0x3000, examplePage(2)],
    ['zeroPage', 0, 0x4000],
    ['zeroPage', 1, 0x1000],
    ['page', 1, 0x2000, examplePage(3)],
  ]);
  const { decoder, handler } = recordingDecoder();
  for (let at = 0; at < stream.length; at++) feed(decoder, stream.subarray(at, at + 1));
  assert.ok(decoder.hasChecksums);
  assert.deepEqual(handler.calls.filter(([name]) => name === 'page').length, 3);
});

test('StreamDecoder names a page that was changed on the way, and does not hand it out', () => {
  const changed = Uint8Array.from(stream);
  const secondAt = head.length + checkedPage(0, 0x1000, 1, true).length;
  changed[secondAt + 8 + 100] = (changed[secondAt + 8 + 100] as number) ^ 0x10;
  const { pages, error } = decode(changed);
  assert.deepEqual([error?.code, error?.at], ['BAD_CHECKSUM', secondAt]);
  assert.match(
    error?.message ?? '',
    /^What came as the page at 0x3000 of "pc\.ram" is not what was sent: its checksum must be 0x[0-9a-f]+, got 0x[0-9a-f]+ \(stream byte \d+\)$/,
  );
  assert.equal(pages.length, 1);
});

test('StreamDecoder never hands out what a flipped bit has made of a page', () => {
  const whole = decode(stream).pages;
  const flip = (bit: number) => {
    const changed = Uint8Array.from(stream);
    const at = head.length + (bit >>> 3);
    changed[at] = (changed[at] as number) ^ (1 << (bit & 7));
    const { pages, error } = decode(changed);
    assert.ok(error !== undefined, `bit ${bit} is not noticed`);
    assert.deepEqual(pages, whole.slice(0, pages.length), `bit ${bit}`);
  };
  const places = [0, 8, 15, 15 + 4096, 15 + 4100, 15 + 4108, records.length - 4113, records.length - 4];
  for (const place of places)
    for (let bit = 0; bit < 80; bit++) flip(Math.min(place * 8 + bit, records.length * 8 - 1));
  fc.assert(fc.property(fc.nat({ max: records.length * 8 - 1 }), flip), { numRuns: 400 });
});

test('StreamDecoder refuses a page without a checksum behind one that has one, also after a recovery', () => {
  const plain = written((writer) => writeZeroPage(writer, 0x5000, 'pc.ram'));
  const mixed = decode(concatenate(head, records, plain));
  assert.deepEqual([mixed.error?.code, mixed.error?.at], ['BAD_FLAGS', head.length + records.length]);
  const { decoder } = recordingDecoder({
    resumed: { ramSectionId: example.RAM_SECTION_ID, hasChecksums: true },
  });
  assert.throws(() => feed(decoder, concatenate(example.ramPart, plain)), { code: 'BAD_FLAGS' });
});
