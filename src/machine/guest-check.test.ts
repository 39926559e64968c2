import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { checkGuest, type GuestName, HEADER_OFFSET } from './guest-check.ts';

const NONCE = 0x89abcdef;
const PAGES = 600;
const RANGE_OFFSET = HEADER_OFFSET + 4096;

/** The memory of a guest in pass 5 whose edge is after `edgeAt` pages of its order. */
function imageOf(guest: GuestName, edgeAt: number, pages = PAGES): DataView {
  const image = new DataView(new ArrayBuffer(RANGE_OFFSET + pages * 4096));
  const set = (at: number, word: number): void => image.setUint32(at, word, true);
  const magics = { counter: 'cntr', random: 'rand', reader: 'read' };
  const mask = 2 ** Math.ceil(Math.log2(pages)) - 1;
  set(HEADER_OFFSET, Buffer.from('PCG1').readUint32LE());
  set(HEADER_OFFSET + 0x04, Buffer.from(magics[guest]).readUint32LE());
  const words = [NONCE, RANGE_OFFSET, pages, 5, 42, 0, mask, 5];
  words.forEach((word, index) => {
    set(HEADER_OFFSET + 0x08 + index * 4, word);
  });
  set(HEADER_OFFSET + 0xffc, NONCE);

  for (let page = 0; page < pages; page++) {
    const at = RANGE_OFFSET + page * 4096;
    set(at + 4, page);
    set(at + 8, NONCE);
    if (guest === 'reader') {
      for (let byte = 12; byte < 4096; byte += 4) set(at + byte, NONCE ^ (page * 4096 + byte));
    }
  }
  orderOf(guest, pages, mask).forEach((page, index) => {
    set(RANGE_OFFSET + page * 4096, index < edgeAt ? 5 : 4);
  });
  return image;
}

/** The order of the pages, the slow way: with integers that cannot overflow. */
function orderOf(guest: GuestName, pages: number, mask: number): number[] {
  const all = Array.from({ length: pages }, (_, page) => page);
  if (guest === 'counter') return all;
  if (guest === 'reader') return all.filter((page) => page % 256 === 0);
  const first = (BigInt(NONCE) + 5n) & BigInt(mask);
  const order: number[] = [];
  let x = first;
  do {
    const page = Number(x ^ (x >> 5n));
    if (page < pages) order.push(page);
    x = (x * 0x19660dn + 0x3c6ef35fn) & BigInt(mask);
  } while (x !== first);
  return order;
}

const check = (image: DataView) =>
  checkGuest((offset, lengthBytes) => new Uint8Array(image.buffer).subarray(offset, offset + lengthBytes));
const pageOf = (image: DataView, page: number): Uint8Array =>
  new Uint8Array(image.buffer, RANGE_OFFSET + page * 4096, 4096);

describe('checkGuest()', () => {
  for (const [guest, edges] of [
    ['counter', [0, 1, 64, 333, 599, 600]],
    ['random', [0, 1, 64, 333, 599, 600]],
    ['reader', [0, 1, 2, 3]],
  ] as const) {
    for (const edgeAt of edges) {
      test(`accepts ${guest} with its edge at ${edgeAt}`, () => {
        assert.deepEqual(check(imageOf(guest, edgeAt)), {
          guest,
          nonce: NONCE,
          pass: 5,
          tick: 42,
          pagesChecked: PAGES,
          edgeAt,
        });
      });
    }

    test(`refuses ${guest} with a lost page`, () => {
      const image = imageOf(guest, 2);
      pageOf(image, 256).fill(0);
      assert.throws(() => check(image), {
        name: 'GuestMemoryError',
        page: 256,
        message: /lost: it holds zeros/,
      });
    });

    test(`refuses ${guest} with two pages swapped`, () => {
      const image = imageOf(guest, 2);
      const one = pageOf(image, 17).slice();
      pageOf(image, 17).set(pageOf(image, 400));
      pageOf(image, 400).set(one);
      assert.throws(() => check(image), { page: 17, message: 'Page 17 is misplaced: it holds page 400' });
    });

    test(`refuses ${guest} with a stale page`, () => {
      const image = imageOf(guest, 2);
      image.setUint32(RANGE_OFFSET + 512 * 4096, 3, true);
      assert.throws(() => check(image), { page: 512, message: /stale: its counter is 3, it must be 5 or 4/ });
    });

    test(`refuses ${guest} with a page of another boot`, () => {
      const image = imageOf(guest, 2);
      image.setUint32(RANGE_OFFSET + 8, 0x11111111, true);
      assert.throws(() => check(image), { page: 0, message: /of another guest: its nonce is 0x11111111/ });
    });
  }

  for (const guest of ['counter', 'random'] as const) {
    test(`refuses ${guest} with two edges: a page the pass had reached is one behind`, () => {
      const image = imageOf(guest, 300);
      const page = orderOf(guest, PAGES, 1023)[100]!;
      image.setUint32(RANGE_OFFSET + page * 4096, 4, true);
      const next = orderOf(guest, PAGES, 1023)[101]!;
      assert.throws(() => check(image), { page: next, message: /not at the edge: pass 5 has it/ });
    });

    test(`refuses ${guest} with two edges: a page is ahead of the pass`, () => {
      const image = imageOf(guest, 300);
      const page = orderOf(guest, PAGES, 1023)[500]!;
      image.setUint32(RANGE_OFFSET + page * 4096, 5, true);
      assert.throws(() => check(image), { page, message: /not at the edge/ });
    });
  }

  test('refuses reader with a damaged word, and a write it never makes', () => {
    const damaged = imageOf('reader', 2);
    pageOf(damaged, 300)[4095]! ^= 1;
    assert.throws(() => check(damaged), { page: 300, message: /damaged at byte 4092/ });
    const written = imageOf('reader', 2);
    written.setUint32(RANGE_OFFSET + 300 * 4096, 5, true);
    assert.throws(() => check(written), { page: 300, message: /never writes this one/ });
  });

  test('accepts one page, and a power of two', () => {
    assert.equal(check(imageOf('counter', 1, 1)).edgeAt, 1);
    assert.equal(check(imageOf('random', 100, 512)).edgeAt, 100);
  });

  test('refuses a changed nonce', () => {
    const image = imageOf('counter', 2);
    image.setUint32(HEADER_OFFSET + 0xffc, 1, true);
    assert.throws(() => check(image), { message: 'Nonce changed: 0x89abcdef, and its copy is 0x00000001' });
  });

  test('refuses what is no guest, an unknown one, and one that is not ready', () => {
    const none = imageOf('counter', 2);
    none.setUint32(HEADER_OFFSET, 0, true);
    assert.throws(() => check(none), { message: /magic must be "PCG1", got 0x00000000/ });
    const unknown = imageOf('counter', 2);
    unknown.setUint32(HEADER_OFFSET + 4, 7, true);
    assert.throws(() => check(unknown), { message: /unknown guest/ });
    const starting = imageOf('counter', 2);
    starting.setUint32(HEADER_OFFSET + 0x14, 0, true);
    assert.throws(() => check(starting), { message: /still preparing its memory/ });
  });

  test('refuses a range that is empty, in the header, or longer than memory', () => {
    for (const [at, word] of [
      [0x10, 0],
      [0x0c, HEADER_OFFSET],
      [0x10, PAGES + 1],
    ] as const) {
      const image = imageOf('counter', 2);
      image.setUint32(HEADER_OFFSET + at, word, true);
      assert.throws(() => check(image), { name: 'GuestMemoryError' });
    }
  });

  test('refuses an order that would never end', () => {
    const image = imageOf('random', 2);
    image.setUint32(HEADER_OFFSET + 0x20, 0xffffffff, true);
    assert.throws(() => check(image), { message: /Order is wrong/ });
  });
});
