/**
 * Proves the memory of a guest of guests/: that no page was lost, mixed up, or left as it was some time ago.
 *
 * Every guest keeps the same books (guests/common.inc). In the range each page holds a counter, its own number and the
 * guest's nonce; a pass adds one to the counters in an order the guest is bound to. So a paused guest's memory holds
 * the pass in progress up to one place in that order, the edge, and one less from there on. Nothing else is right.
 *
 * Header page, at HEADER_OFFSET (little-endian words):
 *
 *   byte   field
 *   0x000  magic "PCG1"
 *   0x004  kind: "cntr" counter, "rand" random, "read" reader
 *   0x008  nonce, made at boot
 *   0x00c  physical address of the range
 *   0x010  pages in the range
 *   0x014  pass in progress, from 1 (0: the guest is still preparing its memory)
 *   0x018  ticks since boot
 *   0x020  random: mask of the sequence    0x024  random: shift
 *   0xffc  nonce again
 */
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';

/** Where the header page is in `pc.ram`, in bytes. */
export const HEADER_OFFSET = 0x200000;

/** Gives `lengthBytes` bytes of `pc.ram` from `offset` on. The checker reads whole pages and keeps none of them. */
export type MemoryReader = (offset: number, lengthBytes: number) => Uint8Array;

export type GuestName = 'counter' | 'random' | 'reader';

export interface GuestReport {
  readonly guest: GuestName;
  /** Made at boot: equal before and after a move, or it is another guest. */
  readonly nonce: number;
  /** Pass in progress, from 1. */
  readonly pass: number;
  /** Lines written on the console since boot. */
  readonly tick: number;
  readonly pagesChecked: number;
  /** How many pages of the order the pass in progress has reached, from 0 to all that the guest writes. */
  readonly edgeAt: number;
}

/** The guest's memory is not what it must be; `page` is the page's number in the range, if it is one of the range. */
export class GuestMemoryError extends Error {
  override readonly name = 'GuestMemoryError';
  readonly page: number | undefined;

  constructor(message: string, page?: number) {
    super(message);
    this.page = page;
  }
}

const GUESTS: Readonly<Record<string, GuestName>> = { cntr: 'counter', rand: 'random', read: 'reader' };
const LCG_MULTIPLIER = 0x19660d;
const LCG_INCREMENT = 0x3c6ef35f;
const READER_WRITES_EVERY = 256;
const READER_FIRST_WORD = 12;
const PAGES_PER_READ = 64;

interface Header {
  readonly guest: GuestName;
  readonly nonce: number;
  readonly startOffset: number;
  readonly pages: number;
  readonly pass: number;
  readonly tick: number;
  readonly mask: number;
  readonly shift: number;
}

/**
 * Checks all memory of a paused guest.
 *
 * @throws {GuestMemoryError} saying which page is wrong and how
 */
export function checkGuest(read: MemoryReader): GuestReport {
  const header = readHeader(read);
  const counters = checkPages(header, read);
  const edgeAt = findEdge(header, counters);
  const { guest, nonce, pass, tick, pages } = header;
  return { guest, nonce, pass, tick, pagesChecked: pages, edgeAt };
}

function readHeader(read: MemoryReader): Header {
  const page = viewOf(read(HEADER_OFFSET, TARGET_PAGE_BYTES));
  const word = (at: number): number => page.getUint32(at, true);
  const magic = asciiOf(word(0x00));
  if (magic !== 'PCG1') {
    throw new GuestMemoryError(`Header page has no guest: magic must be "PCG1", got ${hex(word(0x00))}`);
  }
  const kind = asciiOf(word(0x04));
  const guest = GUESTS[kind];
  if (guest === undefined)
    throw new GuestMemoryError(`Header page names an unknown guest: ${hex(word(0x04))}`);

  const header = {
    guest,
    nonce: word(0x08),
    startOffset: word(0x0c),
    pages: word(0x10),
    pass: word(0x14),
    tick: word(0x18),
    mask: word(0x20),
    shift: word(0x24),
  };
  if (header.nonce !== word(0xffc)) {
    throw new GuestMemoryError(`Nonce changed: ${hex(header.nonce)}, and its copy is ${hex(word(0xffc))}`);
  }
  if (
    header.startOffset % TARGET_PAGE_BYTES !== 0 ||
    header.startOffset <= HEADER_OFFSET ||
    header.pages === 0
  ) {
    throw new GuestMemoryError(`Range is wrong: ${header.pages} pages from ${hex(header.startOffset)}`);
  }
  if (header.pass === 0) throw new GuestMemoryError('Guest is still preparing its memory: pass 0');
  return header;
}

/** Checks what each page must hold whatever the pass, and gives the counters by page number. */
function checkPages(header: Header, read: MemoryReader): Uint32Array {
  const counters = new Uint32Array(header.pages);
  for (let first = 0; first < header.pages; first += PAGES_PER_READ) {
    const count = Math.min(PAGES_PER_READ, header.pages - first);
    const bytes = read(header.startOffset + first * TARGET_PAGE_BYTES, count * TARGET_PAGE_BYTES);
    if (bytes.length !== count * TARGET_PAGE_BYTES) {
      throw new GuestMemoryError(`Memory ends inside the range: cannot read page ${first}`, first);
    }
    const view = viewOf(bytes);
    for (let index = 0; index < count; index++) {
      const at = index * TARGET_PAGE_BYTES;
      const page = first + index;
      const number = view.getUint32(at + 4, true);
      const nonce = view.getUint32(at + 8, true);
      if (number !== page || nonce !== header.nonce) throw misplaced(header, page, number, nonce);
      if (header.guest === 'reader') checkReaderWords(header, view, at, page);
      counters[page] = view.getUint32(at, true);
    }
  }
  return counters;
}

function misplaced(header: Header, page: number, number: number, nonce: number): GuestMemoryError {
  if (number === 0 && nonce === 0) return new GuestMemoryError(`Page ${page} is lost: it holds zeros`, page);
  if (nonce !== header.nonce) {
    return new GuestMemoryError(
      `Page ${page} is of another guest: its nonce is ${hex(nonce)}, the guest's is ${hex(header.nonce)}`,
      page,
    );
  }
  return new GuestMemoryError(`Page ${page} is misplaced: it holds page ${number}`, page);
}

function checkReaderWords(header: Header, view: DataView, at: number, page: number): void {
  for (let byte = READER_FIRST_WORD; byte < TARGET_PAGE_BYTES; byte += 4) {
    const want = (header.nonce ^ (page * TARGET_PAGE_BYTES + byte)) >>> 0;
    const have = view.getUint32(at + byte, true);
    if (have !== want) {
      throw new GuestMemoryError(
        `Page ${page} is damaged at byte ${byte}: it holds ${hex(have)}, not ${hex(want)}`,
        page,
      );
    }
  }
}

/** Follows the order of the pass: the counters must hold it, then one less, and change once. */
function findEdge(header: Header, counters: Uint32Array): number {
  const { pass } = header;
  let reached = 0;
  let isPastEdge = false;
  for (const page of orderOf(header)) {
    const counter = counters[page]!;
    if (counter === pass && !isPastEdge) {
      reached++;
    } else if (counter === pass - 1) {
      isPastEdge = true;
    } else if (counter === pass) {
      throw new GuestMemoryError(
        `Page ${page} is not at the edge: pass ${pass} has it, but not pages before it in the order`,
        page,
      );
    } else {
      throw new GuestMemoryError(
        `Page ${page} is stale: its counter is ${counter}, it must be ${pass} or ${pass - 1}`,
        page,
      );
    }
  }
  if (header.guest === 'reader') {
    const written = counters.findIndex((counter, page) => counter !== 0 && page % READER_WRITES_EVERY !== 0);
    if (written !== -1) {
      throw new GuestMemoryError(`Page ${written} was written: the reader never writes this one`, written);
    }
  }
  return reached;
}

/** The numbers of the pages a pass writes, in the order in which it writes them. */
function* orderOf(header: Header): Generator<number> {
  const { guest, pages, mask, shift } = header;
  if (guest !== 'random') {
    const step = guest === 'reader' ? READER_WRITES_EVERY : 1;
    for (let page = 0; page < pages; page += step) yield page;
    return;
  }
  if (((mask + 1) & mask) !== 0 || mask < pages - 1 || mask >= 2 * pages || shift < 1 || shift > 31) {
    throw new GuestMemoryError(`Order is wrong: mask ${hex(mask)}, shift ${shift} for ${pages} pages`);
  }
  const first = ((header.nonce + header.pass) & mask) >>> 0;
  let x = first;
  do {
    const page = (x ^ (x >>> shift)) >>> 0;
    if (page < pages) yield page;
    x = ((Math.imul(x, LCG_MULTIPLIER) + LCG_INCREMENT) & mask) >>> 0;
  } while (x !== first);
}

const viewOf = (bytes: Uint8Array): DataView =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const hex = (word: number): string => `0x${word.toString(16).padStart(8, '0')}`;
const asciiOf = (word: number): string =>
  String.fromCharCode(word & 0xff, (word >> 8) & 0xff, (word >> 16) & 0xff, word >>> 24);
