/**
 * Decodes the blocks that MEM_SIZE announces (see ram-record.ts), of a machine that is not known here.
 *
 * What an entry consists of is not said in the stream but follows from the capabilities of the source:
 *
 *   cstr idstr, be64 length
 *   be64 host page size    postcopy was advised and the block has large pages. Whether it is there is decided by its first
 *                          byte: a name cannot begin with 0, and what follows the last block (EOS, MULTIFD_FLUSH) is no
 *                          size that POSTCOPY_ADVISE has told.
 *   be64 gpa               x-ignore-shared
 *   mapped-ram header,     mapped-ram. The bitmap and the pages stand at places that the header tells; the next entry comes
 *   bitmap, pages          behind the pages. Of an ignored block the header says 0 and 0, and nothing follows it.
 *
 * Source: QEMU migration/ram.c, ram_save_setup(), mapped_ram_setup_ramblock().
 */
import { asciiText, hex, isPlainName } from './ascii-text.ts';
import type { InputBuffer } from './input-buffer.ts';
import {
  decodeMappedRamHeader,
  MAPPED_RAM_HEADER_BYTES,
  type MappedRamHeader,
  mappedRamBitmapBytes,
} from './mapped-ram.ts';
import { blockNameEnd, type MemSizeDecoder } from './mem-size-decoder.ts';
import { TARGET_PAGE_BYTES, type WireRamBlock } from './ram-record.ts';
import type { StreamLimits } from './stream-limits.ts';

/** A block of a machine that is not known here. */
export interface AnnouncedRamBlock extends WireRamBlock {
  /** With `x-ignore-shared`: the guest physical address, 0 if the block is not mapped. */
  readonly gpa?: bigint;
  /** With `mapped-ram`: where the block stands in the file; undefined for a block that was not written. */
  readonly mapped?: MappedRamHeader;
}

export interface AnnouncedBlocksOptions {
  readonly limits: StreamLimits;
  /** With `x-ignore-shared`. */
  readonly hasGpa: boolean;
  /** With `mapped-ram`. */
  readonly isMapped: boolean;
  /** What stream byte 0 is in the file whose offsets the mapped-ram headers tell. */
  readonly fileOffset: number;
}

export class AnnouncedBlocksDecoder implements MemSizeDecoder {
  /** The host page sizes of all blocks ORed, from POSTCOPY_ADVISE; 0 if that did not come. */
  pageSizeSummary = 0;
  readonly #input: InputBuffer;
  readonly #options: AnnouncedBlocksOptions;
  #announced: AnnouncedRamBlock[] = [];
  #totalBytes = 0;
  #unannouncedBytes = 0;
  /** Bytes of the areas of mapped-ram, and of the gaps before them, that are still to be passed over. */
  #areaBytes = 0;

  constructor(input: InputBuffer, options: AnnouncedBlocksOptions) {
    this.#input = input;
    this.#options = options;
  }

  /** The blocks so far. */
  get announced(): readonly AnnouncedRamBlock[] {
    return this.#announced;
  }

  /** How many of the next bytes of the stream tell nothing to this decoder. */
  get areaBytes(): number {
    return this.#areaBytes;
  }

  begin(totalBytes: number): void {
    this.#announced = [];
    this.#totalBytes = totalBytes;
    this.#unannouncedBytes = totalBytes;
    const { ramBytes } = this.#options.limits;
    if (totalBytes <= ramBytes) return;
    const what = `Total RAM must be at most ${hex(ramBytes)} bytes, got ${hex(totalBytes)}`;
    throw this.#input.error('LIMIT', what, this.#input.position - 8);
  }

  /** Of the area, `countBytes` were passed over outside of the input. */
  skipped(countBytes: number): void {
    this.#areaBytes -= countBytes;
  }

  step(): readonly AnnouncedRamBlock[] | boolean {
    if (this.#areaBytes > 0) {
      const passedBytes = Math.min(this.#areaBytes, this.#input.available);
      this.#input.position += passedBytes;
      this.#areaBytes -= passedBytes;
      if (this.#areaBytes > 0) return false;
    } else if (this.#unannouncedBytes > 0 && !this.#stepBlock()) {
      return false;
    }
    return this.#unannouncedBytes > 0 || this.#areaBytes > 0 || this.#announced;
  }

  #stepBlock(): boolean {
    const input = this.#input;
    const { limits, hasGpa, isMapped } = this.#options;
    const start = input.position;
    const nameEnd = blockNameEnd(input, start);
    if (nameEnd === 0 || input.end - nameEnd < 8) return false;
    const idstr = asciiText(input.bytes, start + 1, nameEnd);
    // It goes into files and messages of ours, where it must be what it was.
    if (!isPlainName(idstr)) {
      throw input.error('BAD_VALUE', `Name of RAM block must be printable ASCII, got "${idstr}"`, start + 1);
    }
    const lengthBytes = this.#decodeLength(idstr, nameEnd);
    let end = nameEnd + 8;
    const pageSizeBytes = this.#decodePageSize(end, lengthBytes === this.#unannouncedBytes);
    if (pageSizeBytes === null) return false;
    if (pageSizeBytes !== TARGET_PAGE_BYTES) {
      this.#checkPageSize(idstr, lengthBytes, pageSizeBytes, end);
      end += 8;
    }
    if (input.end - end < (hasGpa ? 8 : 0) + (isMapped ? MAPPED_RAM_HEADER_BYTES : 0)) return false;
    const gpa = hasGpa ? { gpa: input.view.getBigUint64(end) } : {};
    if (hasGpa) end += 8;
    const mapped = isMapped ? this.#decodeMapped(idstr, lengthBytes, end) : {};
    if (isMapped) end += MAPPED_RAM_HEADER_BYTES;

    if (this.#announced.length === limits.blocks) {
      throw input.error('LIMIT', `Number of RAM blocks must be at most ${limits.blocks}`, start);
    }
    if (this.#announced.some((block) => block.idstr === idstr)) {
      throw input.error('BAD_VALUE', `RAM block "${idstr}" is announced twice`, start);
    }
    input.position = end;
    this.#announced.push({ idstr, lengthBytes, pageSizeBytes, ...gpa, ...mapped });
    this.#unannouncedBytes -= lengthBytes;
    if (mapped.mapped !== undefined) {
      const { pagesOffset } = mapped.mapped;
      this.#areaBytes = pagesOffset + lengthBytes - this.#options.fileOffset - input.at(end);
    }
    return true;
  }

  #decodeLength(idstr: string, position: number): number {
    const length = this.#input.view.getBigUint64(position);
    const leftBytes = this.#unannouncedBytes;
    if (length > BigInt(leftBytes)) {
      throw this.#input.error(
        'BAD_LENGTH',
        `Lengths of the RAM blocks exceed their total of ${this.#totalBytes} bytes at "${idstr}"`,
        position,
      );
    }
    if (length === 0n || length % BigInt(TARGET_PAGE_BYTES) !== 0n) {
      throw this.#input.error(
        'BAD_LENGTH',
        `Length of RAM block "${idstr}" must be a positive multiple of ${TARGET_PAGE_BYTES}, got ${length}`,
        position,
      );
    }
    return Number(length);
  }

  /** The host page size at `position`, that of a plain page if there is none, or null if that cannot be told yet. */
  #decodePageSize(position: number, isLast: boolean): number | null {
    const input = this.#input;
    const hasLargePages = this.pageSizeSummary > TARGET_PAGE_BYTES;
    if (!hasLargePages) return TARGET_PAGE_BYTES;
    if (input.end === position) return null;
    if (input.bytes[position] !== 0) return TARGET_PAGE_BYTES;
    if (input.end - position < 8) return null;
    const high = input.view.getUint32(position);
    const low = input.view.getUint32(position + 4);
    const isRecord = isLast && high === 0 && low < TARGET_PAGE_BYTES;
    return isRecord ? TARGET_PAGE_BYTES : high * 0x1_0000_0000 + low;
  }

  #checkPageSize(idstr: string, lengthBytes: number, pageSizeBytes: number, position: number): void {
    const size = BigInt(pageSizeBytes);
    const isPower = size > 0n && (size & (size - 1n)) === 0n;
    const isTold = isPower && (BigInt(this.pageSizeSummary) & size) !== 0n;
    if (isTold && lengthBytes % pageSizeBytes === 0) return;
    throw this.#input.error(
      'BAD_VALUE',
      `Host page size of RAM block "${idstr}" must be one of those in ${hex(this.pageSizeSummary)} that POSTCOPY_ADVISE told, and divide its length ${hex(lengthBytes)}; got ${hex(pageSizeBytes)}`,
      position,
    );
  }

  #decodeMapped(idstr: string, lengthBytes: number, position: number): { mapped?: MappedRamHeader } {
    const input = this.#input;
    const { hasGpa, fileOffset } = this.#options;
    const header = decodeMappedRamHeader(input.bytes, position, input.at(position), idstr);
    // A block that x-ignore-shared leaves out has a header and nothing behind it.
    if (hasGpa && header.bitmapOffset === 0 && header.pagesOffset === 0) return {};
    const headerEnd = input.at(position + MAPPED_RAM_HEADER_BYTES) + fileOffset;
    const bitmapEnd = header.bitmapOffset + mappedRamBitmapBytes(lengthBytes);
    const isInOrder = header.bitmapOffset >= headerEnd && header.pagesOffset >= bitmapEnd;
    if (isInOrder && Number.isSafeInteger(header.pagesOffset + lengthBytes)) return { mapped: header };
    throw input.error(
      'OUT_OF_RANGE',
      `Bitmap and pages of RAM block "${idstr}" must follow their header, which ends at ${hex(headerEnd)}, without overlap; got ${hex(header.bitmapOffset)} and ${hex(header.pagesOffset)}`,
      position,
    );
  }
}
