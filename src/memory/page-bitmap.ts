/**
 * A bit per target page of one RAM block.
 *
 * Bits stand in 32-bit words, which may be shared between threads. Plain methods are for the one thread that writes;
 * `isSet` reads what another thread has written, and `setShared` and `takeInto` are for a bitmap with two writers.
 */

const BITS = 32;

export class PageBitmap {
  readonly pageCount: number;
  readonly words: Int32Array;

  /** @param words zeroed memory of `wordCount(pageCount)` words; made here if not given */
  constructor(pageCount: number, words: Int32Array = new Int32Array(PageBitmap.wordCount(pageCount))) {
    if (words.length !== PageBitmap.wordCount(pageCount)) {
      throw new RangeError(
        `Bitmap of ${pageCount} pages needs ${PageBitmap.wordCount(pageCount)} words, got ${words.length}`,
      );
    }
    this.pageCount = pageCount;
    this.words = words;
  }

  static wordCount(pageCount: number): number {
    return Math.ceil(pageCount / BITS);
  }

  /** A bitmap that threads can share: pass `words` to the other one. */
  static shared(pageCount: number): PageBitmap {
    return new PageBitmap(
      pageCount,
      new Int32Array(new SharedArrayBuffer(PageBitmap.wordCount(pageCount) * 4)),
    );
  }

  /** @param bytes as `toBytes` makes them; longer ones are cut off. @throws {RangeError} if they are too few */
  static fromBytes(pageCount: number, bytes: Uint8Array): PageBitmap {
    const bitmap = new PageBitmap(pageCount);
    const neededBytes = Math.ceil(pageCount / 8);
    if (bytes.length < neededBytes) {
      throw new RangeError(`Bitmap of ${pageCount} pages needs ${neededBytes} bytes, got ${bytes.length}`);
    }
    for (let at = 0; at < neededBytes; at++) {
      bitmap.words[at >>> 2]! |= (bytes[at] as number) << ((at & 3) * 8);
    }
    return bitmap;
  }

  isSet(page: number): boolean {
    return ((Atomics.load(this.words, page >>> 5) >>> (page & 31)) & 1) === 1;
  }

  set(page: number): void {
    this.words[page >>> 5]! |= 1 << (page & 31);
  }

  clear(page: number): void {
    this.words[page >>> 5]! &= ~(1 << (page & 31));
  }

  /** Sets a bit that another thread may be setting or taking beside. */
  setShared(page: number): void {
    Atomics.or(this.words, page >>> 5, 1 << (page & 31));
  }

  setRange(firstPage: number, pageCount: number): void {
    this.#applyRange(firstPage, pageCount, true);
  }

  clearRange(firstPage: number, pageCount: number): void {
    this.#applyRange(firstPage, pageCount, false);
  }

  /** Moves every set bit into `target`, one word at a time, while another thread goes on setting. */
  takeInto(target: PageBitmap): void {
    for (let word = 0; word < this.words.length; word++) {
      if (this.words[word] !== 0) target.words[word]! |= Atomics.exchange(this.words, word, 0);
    }
  }

  /** Adds the bits of another bitmap of the same size. */
  addAll(other: PageBitmap): void {
    for (let word = 0; word < this.words.length; word++) this.words[word]! |= other.words[word] as number;
  }

  /** A bitmap of the pages that are clear in this one. */
  complement(): PageBitmap {
    const complement = new PageBitmap(this.pageCount);
    for (let word = 0; word < this.words.length; word++)
      complement.words[word] = ~(this.words[word] as number);
    return complement;
  }

  /** The bits in bytes, page 0 in bit 0 of byte 0. */
  toBytes(): Uint8Array {
    const bytes = new Uint8Array(Math.ceil(this.pageCount / 8));
    for (let at = 0; at < bytes.length; at++) bytes[at] = (this.words[at >>> 2] as number) >>> ((at & 3) * 8);
    return bytes;
  }

  /** Padding bits of the last word do not count. */
  count(): number {
    let total = 0;
    for (const word of this.words) total += popCount(word);
    const padding = this.words.length * BITS - this.pageCount;
    if (padding > 0) total -= popCount((this.words.at(-1) as number) & ~(-1 >>> padding));
    return total;
  }

  /** @returns the first set page at or after `from` and before `end`, or -1 */
  nextSet(from: number, end = this.pageCount): number {
    return this.#next(from, 0, end);
  }

  /** @returns the first clear page at or after `from`, or -1 */
  nextClear(from: number): number {
    return this.#next(from, -1, this.pageCount);
  }

  /** @returns the first page at or after `from` that is set here and in another bitmap of the same size, or -1 */
  nextSetInBoth(other: PageBitmap, from: number): number {
    let page = from;
    while (page < this.pageCount) {
      const word = (this.words[page >>> 5] as number) & (other.words[page >>> 5] as number);
      const rest = word & (-1 << (page & 31));
      if (rest !== 0) {
        const found = (page & ~31) + (31 - Math.clz32(rest & -rest));
        return found < this.pageCount ? found : -1;
      }
      page = (page & ~31) + BITS;
    }
    return -1;
  }

  /** Calls back for every maximal run of set pages, in order. */
  forEachRun(onRun: (firstPage: number, pageCount: number) => void): void {
    let first = this.nextSet(0);
    while (first >= 0) {
      const end = this.nextClear(first);
      onRun(first, (end < 0 ? this.pageCount : end) - first);
      first = end < 0 ? -1 : this.nextSet(end);
    }
  }

  /**
   * The bitmap for a person's eyes: 64 pages a line, the line's first page in front; equal lines are folded into one.
   *
   *   0x00000  ................................................................
   *   0x00040  1111....11.1....  (…)
   *   0x00080  * 12 lines of .
   */
  toText(): string {
    const lines: string[] = [];
    for (let page = 0; page < this.pageCount; ) {
      const isSet = this.isSet(page);
      const next = isSet ? this.nextClear(page) : this.nextSet(page);
      const sameUntil = next < 0 ? this.pageCount : next;
      const wholeLines = Math.floor((sameUntil - page) / 64);
      const label = `0x${page.toString(16).padStart(5, '0')}`;
      if (wholeLines > 1) {
        lines.push(`${label}  * ${wholeLines} lines of ${isSet ? '1' : '.'}`);
        page += wholeLines * 64;
        continue;
      }
      let line = '';
      for (let at = page; at < Math.min(page + 64, this.pageCount); at++) line += this.isSet(at) ? '1' : '.';
      lines.push(`${label}  ${line}`);
      page += 64;
    }
    return lines.join('\n');
  }

  #next(from: number, skip: 0 | -1, end: number): number {
    let page = from;
    while (page < end) {
      const word = (this.words[page >>> 5] as number) ^ skip;
      const rest = word & (-1 << (page & 31));
      if (rest !== 0) {
        const found = (page & ~31) + (31 - Math.clz32(rest & -rest));
        return found < end ? found : -1;
      }
      page = (page & ~31) + BITS;
    }
    return -1;
  }

  #applyRange(firstPage: number, pageCount: number, isSet: boolean): void {
    const end = firstPage + pageCount;
    if (firstPage < 0 || pageCount < 0 || end > this.pageCount) {
      throw new RangeError(`Pages ${firstPage} to ${end} are not within a bitmap of ${this.pageCount}`);
    }
    for (let page = firstPage; page < end; ) {
      if ((page & 31) === 0 && end - page >= BITS) {
        this.words[page >>> 5] = isSet ? -1 : 0;
        page += BITS;
      } else {
        if (isSet) this.set(page);
        else this.clear(page);
        page++;
      }
    }
  }
}

function popCount(word: number): number {
  let bits = word - ((word >>> 1) & 0x55555555);
  bits = (bits & 0x33333333) + ((bits >>> 2) & 0x33333333);
  return (((bits + (bits >>> 4)) & 0x0f0f0f0f) * 0x01010101) >>> 24;
}
