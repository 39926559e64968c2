/**
 * Decodes RAM records (see ram-record.ts) from an input buffer into calls of a handler.
 *
 * The hot path: a page record costs no allocation and no copy. CONTINUE refers to the last block named on the same
 * channel, across sections; so one decoder lives as long as its channel.
 */
import { asciiText, hex } from './ascii-text.ts';
import type { InputBuffer } from './input-buffer.ts';
import { RamSaveFlag, TARGET_PAGE_BYTES, type WireRamBlock } from './ram-record.ts';
import type { StreamHandler } from './stream-handler.ts';

type RamRecordHandler = Pick<StreamHandler, 'ramBlocks' | 'page' | 'zeroPage' | 'ramSectionEnd'>;

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
  /** Whether the source sent POSTCOPY_ADVISE, and so the host page size of blocks with large pages. */
  isPostcopyAdvised = false;
  readonly #input: InputBuffer;
  readonly #blocks: readonly WireRamBlock[];
  readonly #names: readonly Uint8Array[];
  readonly #handler: RamRecordHandler;
  /** Index of the block that CONTINUE refers to. */
  #blockIndex = NO_BLOCK;
  #inSection = false;
  #mustAnnounce = false;
  /** The blocks announced so far, while MEM_SIZE is being read. */
  #announced: WireRamBlock[] | null = null;
  #totalBytes = 0;
  #unannouncedBytes = 0;

  constructor(input: InputBuffer, blocks: readonly WireRamBlock[], handler: RamRecordHandler) {
    this.#input = input;
    this.#blocks = blocks;
    this.#names = blocks.map((block) => new TextEncoder().encode(block.idstr));
    this.#handler = handler;
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
    if (this.#announced !== null) return this.#stepBlockEntry(this.#announced);
    const input = this.#input;
    const recordPosition = input.position;
    if (input.end - recordPosition < 8) return false;
    const high = input.view.getUint32(recordPosition);
    const low = input.view.getUint32(recordPosition + 4);
    const flags = low & FLAGS_MASK;
    const kind = flags & ~RamSaveFlag.CONTINUE;
    if (kind !== RamSaveFlag.PAGE && kind !== RamSaveFlag.ZERO) return this.#stepOther(high, low);
    if (this.#mustAnnounce) throw this.#mustAnnounceError(flags);

    let position = recordPosition + 8;
    let blockIndex = this.#blockIndex;
    if ((flags & RamSaveFlag.CONTINUE) === 0) {
      const nameEnd = this.#nameEnd(position);
      if (nameEnd === 0) return false;
      blockIndex = this.#findBlock(position + 1, nameEnd);
      position = nameEnd;
    } else if (blockIndex === NO_BLOCK) {
      throw input.error(
        'BAD_FLAGS',
        'Cannot place page: CONTINUE before any block was named',
        recordPosition,
      );
    }
    const offset = high * TWO_TO_THE_32 + (low - flags);
    const block = this.#blocks[blockIndex]!;
    if (offset >= block.lengthBytes) {
      const got = (BigInt(high) << 32n) | BigInt(low - flags); // Exact, also beyond 2^53.
      throw input.error(
        'OUT_OF_RANGE',
        `Cannot place page: offset must be below ${hex(block.lengthBytes)} in "${block.idstr}", got 0x${got.toString(16)}`,
        recordPosition,
      );
    }

    if (kind === RamSaveFlag.PAGE) {
      if (input.end - position < TARGET_PAGE_BYTES) return false;
      this.#blockIndex = blockIndex;
      input.position = position + TARGET_PAGE_BYTES;
      this.#handler.page(blockIndex, offset, position);
      return true;
    }
    if (input.end === position) return false;
    const fill = input.bytes[position]!;
    if (fill !== 0) {
      throw input.error('BAD_VALUE', `Cannot place zero page: fill must be 0, got ${hex(fill)}`, position);
    }
    this.#blockIndex = blockIndex;
    input.position = position + 1;
    this.#handler.zeroPage(blockIndex, offset);
    return true;
  }

  #stepOther(high: number, low: number): boolean {
    const input = this.#input;
    const flags = low & FLAGS_MASK;
    if (flags === RamSaveFlag.MEM_SIZE) return this.#beginMemSize(high, low);
    if (flags === RamSaveFlag.EOS && high === 0 && low === RamSaveFlag.EOS) {
      if (this.#mustAnnounce) throw this.#mustAnnounceError(flags);
      input.position += 8;
      this.#inSection = false;
      this.#handler.ramSectionEnd();
      return true;
    }
    const unsupported = UNSUPPORTED_FLAGS.get(flags & ~RamSaveFlag.CONTINUE);
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
    input.position += 8;
    this.#totalBytes = totalBytes;
    this.#unannouncedBytes = totalBytes;
    if (totalBytes === 0) this.#endMemSize([]);
    else this.#announced = [];
    return true;
  }

  /** One block of MEM_SIZE; there is no count, the list ends when the lengths reach the total. */
  #stepBlockEntry(announced: WireRamBlock[]): boolean {
    const input = this.#input;
    const start = input.position;
    const nameEnd = this.#nameEnd(start);
    if (nameEnd === 0) return false;
    const block = this.#blocks[this.#findBlock(start + 1, nameEnd)]!;
    if (announced.includes(block)) {
      throw input.error('BAD_VALUE', `RAM block "${block.idstr}" is announced twice`, start);
    }
    if (input.end - nameEnd < 8) return false;
    const lengthBytes = input.view.getBigUint64(nameEnd);
    if (lengthBytes !== BigInt(block.lengthBytes)) {
      throw input.error(
        'BAD_LENGTH',
        `Length of RAM block "${block.idstr}" must be ${block.lengthBytes} bytes as it is here, got ${lengthBytes}`,
        nameEnd,
      );
    }
    if (block.lengthBytes > this.#unannouncedBytes) {
      throw input.error(
        'BAD_LENGTH',
        `Lengths of the RAM blocks exceed their total of ${this.#totalBytes} bytes at "${block.idstr}"`,
        nameEnd,
      );
    }
    let end = nameEnd + 8;
    if (this.isPostcopyAdvised && block.pageSizeBytes !== TARGET_PAGE_BYTES) {
      if (input.end - end < 8) return false;
      const pageSizeBytes = input.view.getBigUint64(end);
      if (pageSizeBytes !== BigInt(block.pageSizeBytes)) {
        throw input.error(
          'BAD_VALUE',
          `Host page size of RAM block "${block.idstr}" must be ${block.pageSizeBytes} bytes as it is here, got ${pageSizeBytes}`,
          end,
        );
      }
      end += 8;
    }
    input.position = end;
    announced.push(block);
    this.#unannouncedBytes -= block.lengthBytes;
    if (this.#unannouncedBytes === 0) this.#endMemSize(announced);
    return true;
  }

  #endMemSize(announced: readonly WireRamBlock[]): void {
    const missing = this.#blocks.find((block) => !announced.includes(block));
    if (missing !== undefined) {
      const localBytes = this.#blocks.reduce((sum, block) => sum + block.lengthBytes, 0);
      throw this.#input.error(
        'BAD_LENGTH',
        `Total RAM must be ${localBytes} bytes as it is here, got ${this.#totalBytes} without "${missing.idstr}"`,
        this.#input.position,
      );
    }
    this.#announced = null;
    this.#mustAnnounce = false;
    this.#handler.ramBlocks(announced);
  }

  /** Where the cstr at `position` ends, or 0 if it is not complete yet. */
  #nameEnd(position: number): number {
    const input = this.#input;
    if (position >= input.end) return 0;
    const lengthBytes = input.bytes[position]!;
    if (lengthBytes === 0) throw input.error('BAD_LENGTH', 'Name of RAM block is empty', position);
    const nameEnd = position + 1 + lengthBytes;
    return nameEnd <= input.end ? nameEnd : 0;
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
