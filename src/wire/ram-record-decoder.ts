/**
 * Decodes RAM records (see ram-record.ts) from an input buffer into calls of a handler.
 *
 * The hot path: a page record costs no allocation and no copy. CONTINUE refers to the last block named on the same
 * channel, across sections; so one decoder lives as long as its channel.
 */
import { asciiText, hex } from './ascii-text.ts';
import type { InputBuffer } from './input-buffer.ts';
import { blockNameEnd, type MemSizeDecoder } from './mem-size-decoder.ts';
import { PAGE_CHECKSUM_BYTES, PageChecksums } from './page-checksum.ts';
import { RamSaveFlag, TARGET_PAGE_BYTES, type WireRamBlock } from './ram-record.ts';
import { checkXbzrle, ENCODING_FLAG_XBZRLE } from './xbzrle.ts';

/** What the records say; `position` is in the input and `record` is where the record begins there. */
export interface RamRecordHandler {
  /** @param at stream byte where MEM_SIZE began; its record may be longer than the input */
  ramBlocks(blocks: readonly WireRamBlock[], at: number): void;
  page(blockIndex: number, offset: number, position: number): void;
  zeroPage(blockIndex: number, offset: number, record: number): void;
  ramSectionEnd(record: number): void;
}

/** What else a party that only looks on can be told. */
export interface ForeignRamRecordHandler {
  xbzrlePage(blockIndex: number, offset: number, position: number, lengthBytes: number): void;
  multifdFlush(record: number): void;
}

const MODIFIERS = RamSaveFlag.CONTINUE | RamSaveFlag.CHECKSUM;
const FLAGS_MASK = TARGET_PAGE_BYTES - 1;
const TWO_TO_THE_32 = 0x1_0000_0000;
const NO_BLOCK = -1;

/** Valid on the wire, but of features this side has not, with the reason in words. */
const UNSUPPORTED_FLAGS: ReadonlyMap<number, string> = new Map([
  [RamSaveFlag.XBZRLE, 'XBZRLE delta; switch the capability "xbzrle" off at the source'],
  [RamSaveFlag.HOOK, 'RDMA hook; use another transport than rdma'],
  [RamSaveFlag.COMPRESS_PAGE, 'compressed page; switch the capability "compress" off at the source'],
  [RamSaveFlag.MULTIFD_FLUSH, 'multifd flush; switch the capability "multifd" off at the source'],
]);

export class RamRecordDecoder {
  /** In the postcopy phase no page is the difference to what it was. */
  isPostcopy = false;
  /** Whether every page must have a checksum: from the first on that has one. */
  hasChecksums = false;
  readonly #input: InputBuffer;
  readonly #memSize: MemSizeDecoder;
  readonly #handler: RamRecordHandler;
  readonly #foreign: ForeignRamRecordHandler | null;
  #blocks: readonly WireRamBlock[] = [];
  #names: readonly Uint8Array[] = [];
  #checksums: PageChecksums | undefined;
  /** Index of the block that CONTINUE refers to. */
  #blockIndex = NO_BLOCK;
  #inSection = false;
  #mustAnnounce = false;
  #isAnnouncing = false;
  /** Where MEM_SIZE began, as a stream byte. */
  #memSizeAt = 0;

  /** @param foreign takes what a destination of ours refuses; null to refuse it */
  constructor(
    input: InputBuffer,
    memSize: MemSizeDecoder,
    handler: RamRecordHandler,
    foreign: ForeignRamRecordHandler | null = null,
  ) {
    this.#input = input;
    this.#memSize = memSize;
    this.#handler = handler;
    this.#foreign = foreign;
  }

  /** The blocks that page records may name; `blockIndex` counts in them. */
  set blocks(blocks: readonly WireRamBlock[]) {
    this.#blocks = blocks;
    this.#checksums = undefined;
    this.#names = blocks.map((block) => new TextEncoder().encode(block.idstr));
  }

  /** Whether records come next: from `beginSection()` to EOS. */
  get inSection(): boolean {
    return this.#inSection;
  }

  /** @param isStart whether the section is START, whose first record is MEM_SIZE */
  beginSection(isStart: boolean): void {
    this.#inSection = true;
    this.#mustAnnounce = isStart;
  }

  /**
   * Decodes one record.
   *
   * @returns false if it is not complete yet
   * @throws {StreamError}
   */
  step(): boolean {
    if (this.#isAnnouncing) return this.#stepMemSize();
    const input = this.#input;
    const recordPosition = input.position;
    if (input.end - recordPosition < 8) return false;
    const high = input.view.getUint32(recordPosition);
    const low = input.view.getUint32(recordPosition + 4);
    const flags = low & FLAGS_MASK;
    const kind = flags & ~MODIFIERS;
    if (kind !== RamSaveFlag.PAGE && kind !== RamSaveFlag.ZERO) return this.#stepOther(high, low);
    if (this.#mustAnnounce) throw this.#mustAnnounceError(flags);
    const hasChecksum = (flags & RamSaveFlag.CHECKSUM) !== 0;
    if (this.hasChecksums && !hasChecksum) {
      throw input.error('BAD_FLAGS', 'A page without a checksum follows pages that have one', recordPosition);
    }
    const checksumBytes = hasChecksum ? PAGE_CHECKSUM_BYTES : 0;

    let position = recordPosition + 8;
    let blockIndex = this.#blockIndex;
    if ((flags & RamSaveFlag.CONTINUE) === 0) {
      const nameEnd = blockNameEnd(input, position);
      if (nameEnd === 0) return false;
      blockIndex = this.#findBlock(position + 1, nameEnd);
      position = nameEnd;
    }
    const offset = this.#offset(recordPosition, blockIndex);

    if (kind === RamSaveFlag.PAGE) {
      const end = position + TARGET_PAGE_BYTES;
      if (input.end - end < checksumBytes) return false;
      if (hasChecksum) this.#check(blockIndex, offset, position, end, recordPosition);
      this.#blockIndex = blockIndex;
      input.position = end + checksumBytes;
      this.#handler.page(blockIndex, offset, position);
      return true;
    }
    if (input.end - position < 1 + checksumBytes) return false;
    const fill = input.bytes[position]!;
    if (fill !== 0) {
      throw input.error('BAD_VALUE', `Cannot place zero page: fill must be 0, got ${hex(fill)}`, position);
    }
    if (hasChecksum) this.#check(blockIndex, offset, -1, position + 1, recordPosition);
    this.#blockIndex = blockIndex;
    input.position = position + 1 + checksumBytes;
    this.#handler.zeroPage(blockIndex, offset, recordPosition);
    return true;
  }

  /**
   * Before anything of the record is believed.
   *
   * @param position of the content, or -1 for a page of zeros
   * @param at position of the checksum
   */
  #check(blockIndex: number, offset: number, position: number, at: number, record: number): void {
    const input = this.#input;
    this.#checksums ??= new PageChecksums(this.#blocks);
    const [checksums, sent] = [this.#checksums, input.view.getUint32(at)];
    const got =
      position < 0
        ? checksums.ofZeroPage(blockIndex, offset)
        : checksums.ofPage(blockIndex, offset, input.bytes, position);
    this.hasChecksums = true;
    if (got === sent) return;
    const idstr = this.#blocks[blockIndex]?.idstr;
    throw input.error(
      'BAD_CHECKSUM',
      `What came as the page at ${hex(offset)} of "${idstr}" is not what was sent: its checksum must be ${hex(sent)}, got ${hex(got)}`,
      record,
    );
  }

  #stepOther(high: number, low: number): boolean {
    const input = this.#input;
    const flags = low & FLAGS_MASK;
    if (flags === RamSaveFlag.MEM_SIZE) return this.#beginMemSize(high, low);
    if (flags === RamSaveFlag.EOS && high === 0 && low === RamSaveFlag.EOS) {
      if (this.#mustAnnounce) throw this.#mustAnnounceError(flags);
      input.position += 8;
      this.#inSection = false;
      this.#handler.ramSectionEnd(input.position - 8);
      return true;
    }
    const kind = flags & ~RamSaveFlag.CONTINUE;
    if (this.#foreign !== null && kind === RamSaveFlag.XBZRLE) return this.#stepXbzrle(this.#foreign);
    if (this.#foreign !== null && high === 0 && low === RamSaveFlag.MULTIFD_FLUSH) {
      if (this.#mustAnnounce) throw this.#mustAnnounceError(flags);
      input.position += 8;
      this.#foreign.multifdFlush(input.position - 8);
      return true;
    }
    const unsupported = UNSUPPORTED_FLAGS.get(kind);
    if (unsupported !== undefined) {
      throw input.error('UNSUPPORTED', `Cannot read RAM record: ${unsupported}`, input.position);
    }
    throw input.error(
      'BAD_FLAGS',
      `Unknown combination of migration flags: ${hex(flags)}${flags === RamSaveFlag.EOS ? ' with an offset' : ''}`,
      input.position,
    );
  }

  #beginMemSize(high: number, low: number): boolean {
    const input = this.#input;
    if (!this.#mustAnnounce) {
      throw input.error(
        'BAD_FLAGS',
        'RAM blocks may be announced only once, at the start of the RAM section',
        input.position,
      );
    }
    const totalBytes = high * TWO_TO_THE_32 + (low - RamSaveFlag.MEM_SIZE);
    if (!Number.isSafeInteger(totalBytes)) {
      throw input.error(
        'OUT_OF_RANGE',
        `Total RAM must be below 2^53 bytes, got ${totalBytes}`,
        input.position,
      );
    }
    this.#memSizeAt = input.at(input.position);
    input.position += 8;
    this.#isAnnouncing = true;
    this.#memSize.begin(totalBytes);
    return true;
  }

  #stepMemSize(): boolean {
    const progress = this.#memSize.step();
    if (typeof progress === 'boolean') return progress;
    this.#isAnnouncing = false;
    this.#mustAnnounce = false;
    this.#handler.ramBlocks(progress, this.#memSizeAt);
    return true;
  }

  /** A delta to the content of a page: u8 1, be16 length, then the delta (see xbzrle.ts). */
  #stepXbzrle(foreign: ForeignRamRecordHandler): boolean {
    const input = this.#input;
    const record = input.position;
    if (this.isPostcopy) {
      throw input.error('BAD_FLAGS', 'XBZRLE delta in the postcopy phase, where pages come whole', record);
    }
    if (this.#mustAnnounce) throw this.#mustAnnounceError(RamSaveFlag.XBZRLE);
    const isNamed = (input.view.getUint32(record + 4) & RamSaveFlag.CONTINUE) === 0;
    const position = isNamed ? blockNameEnd(input, record + 8) : record + 8;
    if (position === 0) return false;
    const blockIndex = isNamed ? this.#findBlock(record + 9, position) : this.#blockIndex;
    const offset = this.#offset(record, blockIndex);
    if (input.end - position < 3) return false;
    const encoding = input.bytes[position]!;
    if (encoding !== ENCODING_FLAG_XBZRLE) {
      const what = `Encoding of an XBZRLE delta must be ${ENCODING_FLAG_XBZRLE}, got ${encoding}`;
      throw input.error('BAD_VALUE', what, position);
    }
    const lengthBytes = input.view.getUint16(position + 1);
    if (lengthBytes === 0 || lengthBytes > TARGET_PAGE_BYTES) {
      const what = `Length of an XBZRLE delta must be 1 to ${TARGET_PAGE_BYTES}, got ${lengthBytes}`;
      throw input.error('BAD_LENGTH', what, position + 1);
    }
    const start = position + 3;
    if (input.end - start < lengthBytes) return false;
    checkXbzrle(input.bytes.subarray(start, start + lengthBytes), input.at(start));
    this.#blockIndex = blockIndex;
    input.position = start + lengthBytes;
    foreign.xbzrlePage(blockIndex, offset, start, lengthBytes);
    return true;
  }

  /** The offset in the u64 at `record`, which must lie in the block. */
  #offset(record: number, blockIndex: number): number {
    const { view } = this.#input;
    const high = view.getUint32(record);
    const low = view.getUint32(record + 4);
    const flags = low & FLAGS_MASK;
    if (blockIndex === NO_BLOCK) {
      throw this.#input.error('BAD_FLAGS', 'Cannot place page: CONTINUE before any block was named', record);
    }
    const offset = high * TWO_TO_THE_32 + (low - flags);
    const block = this.#blocks[blockIndex]!;
    if (offset < block.lengthBytes) return offset;
    const got = (BigInt(high) << 32n) | BigInt(low - flags); // Exact, also beyond 2^53.
    throw this.#input.error(
      'OUT_OF_RANGE',
      `Cannot place page: offset must be below ${hex(block.lengthBytes)} in "${block.idstr}", got 0x${got.toString(16)}`,
      record,
    );
  }

  #findBlock(start: number, end: number): number {
    for (let index = 0; index < this.#names.length; index++) {
      if (this.#isName(this.#names[index]!, start, end)) return index;
    }
    const { bytes } = this.#input;
    throw this.#input.error(
      'UNKNOWN_BLOCK',
      `Unknown ramblock "${asciiText(bytes, start, end)}", cannot accept migration`,
      start,
    );
  }

  #isName(name: Uint8Array, start: number, end: number): boolean {
    if (name.length !== end - start) return false;
    const { bytes } = this.#input;
    for (let index = 0; index < name.length; index++) {
      if (bytes[start + index] !== name[index]) return false;
    }
    return true;
  }

  #mustAnnounceError(flags: number): Error {
    return this.#input.error(
      'BAD_FLAGS',
      `The RAM section must start by announcing its blocks (MEM_SIZE), got flags ${hex(flags)}`,
      this.#input.position,
    );
  }
}
