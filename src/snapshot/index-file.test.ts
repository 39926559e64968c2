import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { PageBitmap } from '../memory/page-bitmap.ts';
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import {
  decodeIndex,
  encodeIndex,
  type IndexedStream,
  indexPath,
  loadIndex,
  MAX_JSON_BYTES,
} from './index-file.ts';
import { openBlock, type SnapshotBlockData } from './snapshot.ts';

const FILE_BYTES = 2 ** 33;

const block = fc
  .record({
    idstr: fc.string({ minLength: 1, maxLength: 20 }),
    content: fc.array(fc.boolean(), { minLength: 1, maxLength: 70 }),
    /** Of the first page, if one follows another; else of each page. */
    places: fc.oneof(
      fc.integer({ min: 0, max: 2 ** 32 }),
      fc.array(fc.integer({ min: 0, max: FILE_BYTES - TARGET_PAGE_BYTES }), { minLength: 70, maxLength: 70 }),
    ),
  })
  .map(({ idstr, content, places }): SnapshotBlockData => {
    const bitmap = PageBitmap.shared(content.length);
    for (const [page, isSet] of content.entries()) if (isSet) bitmap.set(page);
    return {
      ...{ idstr, lengthBytes: content.length * TARGET_PAGE_BYTES, pageSizeBytes: TARGET_PAGE_BYTES },
      contentWords: bitmap.words,
      offsets: typeof places === 'number' ? places : Float64Array.from(places.slice(0, content.length)),
    };
  });
const half = fc.integer({ min: 0, max: FILE_BYTES / 2 });
const range = fc.tuple(half, half).map(([offset, lengthBytes]) => ({ offset, lengthBytes }));
const stream = fc.record({
  offset: fc.nat(),
  machineType: fc.string(),
  uuid: fc.option(fc.uint8Array({ minLength: 16, maxLength: 16 }), { nil: undefined }),
  ramSectionId: fc.nat(),
  blocks: fc.array(block, { maxLength: 4 }),
  deviceSections: range,
  vmDescription: fc.option(range, { nil: undefined }),
});
const state = { size: BigInt(FILE_BYTES), mtimeNs: 123_456_789_012n };

/** Where each page with content stands. */
function tellBlocks({ blocks }: IndexedStream) {
  return blocks.map((data) => {
    const { idstr, lengthBytes, pageSizeBytes, hasContent, fileOffsetOf } = openBlock(data);
    const places: [number, number][] = [];
    hasContent.forEachRun((firstPage, pageCount) => {
      for (let page = firstPage; page < firstPage + pageCount; page++)
        places.push([page, fileOffsetOf(page)]);
    });
    return { idstr, lengthBytes, pageSizeBytes, places };
  });
}

test('decodeIndex() gives back what encodeIndex() was given', () => {
  fc.assert(
    fc.property(stream, (indexed) => {
      const decoded = decodeIndex(Buffer.from(encodeIndex(state, indexed)), state);
      assert.ok(decoded !== undefined);
      assert.deepEqual(tellBlocks(decoded), tellBlocks(indexed));
      const { blocks: _, uuid, ...rest } = decoded;
      const { blocks: __, uuid: expectedUuid, ...expected } = indexed;
      assert.deepEqual(rest, expected);
      assert.deepEqual(uuid && Uint8Array.from(uuid), expectedUuid);
    }),
    { numRuns: 60 },
  );
});

test('decodeIndex() takes no part of an index, none with a changed bit, and none of another file', () => {
  fc.assert(
    fc.property(stream, fc.nat(), fc.integer({ min: 0, max: 7 }), (indexed, seed, bit) => {
      const encoded = Buffer.from(encodeIndex(state, indexed));
      const at = seed % encoded.length;
      assert.equal(decodeIndex(encoded.subarray(0, at), state), undefined);
      assert.equal(decodeIndex(encoded, { ...state, mtimeNs: state.mtimeNs + 1n }), undefined);
      assert.equal(decodeIndex(encoded, { ...state, size: state.size + 1n }), undefined);
      encoded[at]! ^= 1 << bit;
      assert.equal(decodeIndex(encoded, state), undefined);
    }),
    { numRuns: 60 },
  );
});

test('decodeIndex() takes JSON so long, and no longer', () => {
  const indexed = fc.sample(stream, { numRuns: 1, seed: 1 })[0] as IndexedStream;
  const jsonBytes = (machineType: string) =>
    Buffer.from(encodeIndex(state, { ...indexed, machineType })).readUInt32LE(24);
  const restBytes = jsonBytes('');
  const decode = (bytes: number) => {
    const machineType = 'x'.repeat(bytes - restBytes);
    return decodeIndex(Buffer.from(encodeIndex(state, { ...indexed, machineType })), state);
  };
  assert.notEqual(decode(MAX_JSON_BYTES), undefined);
  assert.equal(decode(MAX_JSON_BYTES + 1), undefined);
});

test('loadIndex() reads no file that is longer than an index can be', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'index-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'stream');
  writeFileSync(indexPath(path), 'PCINDEX1');
  // Sparse; to read it would fail, as would a buffer of that length.
  truncateSync(indexPath(path), 2 ** 40);
  assert.equal(loadIndex(path, state, 0), undefined);
});
