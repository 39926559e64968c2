/**
 * mapped-ram: the header that stands behind a block's entry in MEM_SIZE, in a file whose pages have places of their own.
 *
 *   byte  size  type   field
 *   0     4     be32   version, 1
 *   4     8     be64   page size in bytes
 *   12    8     be64   file offset of the bitmap: one bit for each page, set if it was written; in 64-bit words,
 *                      little-endian, so that page n is bit n & 7 of byte n >> 3. A page that was not written is zero.
 *   20    8     be64   file offset of page 0; page n stands n pages behind it. QEMU aligns it to 1 MiB, and asks of a
 *                      file it reads only that it be aligned to a page.
 *
 * Source: QEMU docs/devel/migration/mapped-ram.rst; migration/ram.c, MappedRamHeader.
 */
import { hex } from './ascii-text.ts';
import type { ByteWriter } from './byte-writer.ts';
import { TARGET_PAGE_BYTES } from './ram-record.ts';
import { StreamError } from './stream-error.ts';

export const MAPPED_RAM_HEADER_VERSION = 1;
export const MAPPED_RAM_HEADER_BYTES = 28;
/** What QEMU aligns the pages of a block to in the file. */
export const MAPPED_RAM_ALIGNMENT_BYTES = 1024 * 1024;

/** Where a block stands in a file, as absolute offsets in bytes. */
export interface MappedRamHeader {
  readonly bitmapOffset: number;
  readonly pagesOffset: number;
}

/** Length of the bitmap of a block of `lengthBytes` bytes. */
export function mappedRamBitmapBytes(lengthBytes: number): number {
  return Math.ceil(lengthBytes / TARGET_PAGE_BYTES / 64) * 8;
}

export function writeMappedRamHeader(
  writer: ByteWriter,
  { bitmapOffset, pagesOffset }: MappedRamHeader,
): void {
  writer.u32(MAPPED_RAM_HEADER_VERSION);
  writer.u64(TARGET_PAGE_BYTES);
  writer.u64(bitmapOffset);
  writer.u64(pagesOffset);
}

/**
 * The header at `bytes[position]`.
 *
 * @param at stream byte of the header, for the error
 * @throws {StreamError} `BAD_VERSION`, `BAD_VALUE`, `OUT_OF_RANGE`
 */
export function decodeMappedRamHeader(
  bytes: Uint8Array,
  position: number,
  at: number,
  idstr: string,
): MappedRamHeader {
  const view = new DataView(bytes.buffer, bytes.byteOffset + position, MAPPED_RAM_HEADER_BYTES);
  const version = view.getUint32(0);
  if (version !== MAPPED_RAM_HEADER_VERSION) {
    const what = `Version of the mapped-ram header of "${idstr}" must be ${MAPPED_RAM_HEADER_VERSION}, got ${version}`;
    throw new StreamError('BAD_VERSION', what, at);
  }
  const pageSizeBytes = view.getBigUint64(4);
  if (pageSizeBytes !== BigInt(TARGET_PAGE_BYTES)) {
    const what = `Page size of the mapped-ram header of "${idstr}" must be ${TARGET_PAGE_BYTES}, got ${pageSizeBytes}`;
    throw new StreamError('BAD_VALUE', what, at + 4);
  }
  const offset = (field: number, alignmentBytes: number) => {
    const value = view.getBigUint64(field);
    const isLegal = value <= BigInt(Number.MAX_SAFE_INTEGER) && value % BigInt(alignmentBytes) === 0n;
    if (isLegal) return Number(value);
    throw new StreamError(
      'OUT_OF_RANGE',
      `File offset in the mapped-ram header of "${idstr}" must be a multiple of ${alignmentBytes} below 2^53, got ${hex(Number(value))}`,
      at + field,
    );
  };
  return { bitmapOffset: offset(12, 1), pagesOffset: offset(20, TARGET_PAGE_BYTES) };
}
