import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { PageBitmap } from './page-bitmap.ts';

test('PageBitmap agrees with a set of numbers after any ranges set and cleared', () => {
  const range = fc.tuple(fc.boolean(), fc.nat(199), fc.nat(200));
  fc.assert(
    fc.property(fc.array(range, { maxLength: 12 }), (ranges) => {
      const bitmap = new PageBitmap(200);
      const naive = new Set<number>();
      for (const [isSet, first, wanted] of ranges) {
        const count = Math.min(wanted, 200 - first);
        if (isSet) bitmap.setRange(first, count);
        else bitmap.clearRange(first, count);
        for (let page = first; page < first + count; page++) {
          if (isSet) naive.add(page);
          else naive.delete(page);
        }
      }
      const pages = [...naive].sort((a, b) => a - b);
      assert.equal(bitmap.count(), pages.length);
      const fromRuns: number[] = [];
      bitmap.forEachRun((first, count) => {
        for (let page = first; page < first + count; page++) fromRuns.push(page);
        assert.ok(!bitmap.isSet(first + count) || first + count >= 200, 'a run is maximal');
      });
      assert.deepEqual(fromRuns, pages);
      for (const from of [0, 31, 32, 63, 64, 150, 199]) {
        assert.equal(bitmap.nextSet(from), pages.find((page) => page >= from) ?? -1);
        assert.equal(bitmap.nextSet(from, 151), pages.find((page) => page >= from && page < 151) ?? -1);
        const clear = Array.from({ length: 200 }, (_, page) => page).find(
          (page) => page >= from && !naive.has(page),
        );
        assert.equal(bitmap.nextClear(from), clear ?? -1);
      }
    }),
  );
});

test('PageBitmap.nextSetInBoth() agrees with a search page by page', () => {
  const pages = fc.array(fc.nat(99), { maxLength: 40 });
  fc.assert(
    fc.property(pages, pages, fc.nat(110), (ours, theirs, from) => {
      const [left, right] = [new PageBitmap(100), new PageBitmap(100)];
      for (const page of ours) left.set(page);
      for (const page of theirs) right.set(page);
      const both = ours.filter((page) => theirs.includes(page) && page >= from);
      assert.equal(left.nextSetInBoth(right, from), both.length === 0 ? -1 : Math.min(...both));
    }),
  );
});

test('PageBitmap ignores the padding bits of its last word', () => {
  const bitmap = new PageBitmap(33);
  bitmap.setRange(0, 33);
  assert.equal(bitmap.nextClear(0), -1);
  assert.equal(bitmap.count(), 33);
  assert.equal(bitmap.nextSet(33), -1);
});

test('PageBitmap.takeInto() moves what another thread set', () => {
  const shared = PageBitmap.shared(70);
  const other = new PageBitmap(70, shared.words);
  other.setShared(3);
  other.setShared(69);
  const target = new PageBitmap(70);
  target.set(5);
  shared.takeInto(target);
  assert.equal(shared.count(), 0);
  assert.deepEqual(
    [3, 5, 69].map((page) => target.isSet(page)),
    [true, true, true],
  );
  assert.equal(target.count(), 3);
});

test('PageBitmap.complement() has the other pages, and no more', () => {
  const bitmap = new PageBitmap(37);
  bitmap.setRange(3, 30);
  const complement = bitmap.complement();
  assert.equal(complement.count(), 7);
  assert.deepEqual(
    [2, 3, 32, 33, 36].map((page) => complement.isSet(page)),
    [true, false, false, true, true],
  );
  assert.equal(complement.nextSet(37), -1);
});

test('PageBitmap.toText() draws 64 pages a line and folds equal lines', () => {
  const bitmap = new PageBitmap(256 + 3);
  bitmap.set(1);
  bitmap.setRange(257, 2);
  assert.equal(
    bitmap.toText(),
    [`0x00000  .1${'.'.repeat(62)}`, '0x00040  * 3 lines of .', '0x00100  .11'].join('\n'),
  );
});

test('PageBitmap refuses ranges and memory that do not fit', () => {
  assert.throws(() => new PageBitmap(10).setRange(5, 6), /Pages 5 to 11 are not within a bitmap of 10/);
  assert.throws(() => new PageBitmap(33, new Int32Array(1)), /needs 2 words, got 1/);
});

test('PageBitmap.toBytes() puts page 0 into bit 0 of byte 0, and fromBytes() reads that', () => {
  const bitmap = new PageBitmap(41);
  for (const page of [0, 9, 31, 32, 40]) bitmap.set(page);
  assert.deepEqual(bitmap.toBytes(), Uint8Array.of(0x01, 0x02, 0x00, 0x80, 0x01, 0x01));
  const again = PageBitmap.fromBytes(41, Uint8Array.of(0x01, 0x02, 0x00, 0x80, 0x01, 0x01, 0xff, 0xff));
  assert.deepEqual(again.words, bitmap.words);
  assert.throws(() => PageBitmap.fromBytes(41, new Uint8Array(5)), /needs 6 bytes, got 5/);
});
