/**
 * RAM records: the body of every `ram` section, and what a source writes into it.
 *
 *   byte  size  type   field
 *   0     8     be64   byte offset in the RAM block, with RamSaveFlag in the low 12 bits
 *   8     1+n   cstr   idstr of the block; absent when CONTINUE is set: same block as the record before,
 *                      also when that was in another section
 *   …                  PAGE: 4096 bytes of content.  ZERO: u8 0
 *   …     4     be32   checksum of the record (see page-checksum.ts), with CHECKSUM; QEMU has no such flag, and it goes only
 *                      to a destination that has announced that it knows it (see peer-features.ts)
 *
 *   MEM_SIZE  be64 total length of all blocks | 4, then per block: cstr idstr, be64 length,
 *             and be64 host page size if postcopy was advised and that is not 4096. Only in START, as its first record.
 *   EOS       be64 0x10: ends the body of the section.
 *
 * Source: QEMU migration/ram.c, save_page_header(), ram_save_setup().
 */
import type { ByteWriter } from './byte-writer.ts';
import { MAX_CSTR_BYTES } from './sections.ts';

/** Target (guest) page size in bytes: the unit of the RAM records. */
export const TARGET_PAGE_BYTES = 4096;

export const RamSaveFlag = {
  /** Obsolete; never valid. */
  FULL: 0x001,
  ZERO: 0x002,
  MEM_SIZE: 0x004,
  PAGE: 0x008,
  EOS: 0x010,
  /** A modifier of the others: the block is not named. */
  CONTINUE: 0x020,
  XBZRLE: 0x040,
  HOOK: 0x080,
  COMPRESS_PAGE: 0x100,
  MULTIFD_FLUSH: 0x200,
  /** Ours. A modifier of PAGE and ZERO: a checksum follows. */
  CHECKSUM: 0x800,
} as const;

export const PAGE_RECORD_CONTINUE_BYTES = 8 + TARGET_PAGE_BYTES;
/** With its checksum. */
export const PAGE_RECORD_MAX_BYTES = 8 + MAX_CSTR_BYTES + TARGET_PAGE_BYTES + 4;
export const ZERO_RECORD_CONTINUE_BYTES = 8 + 1;
export const ZERO_RECORD_MAX_BYTES = 8 + MAX_CSTR_BYTES + 1;
export const PAGE_HEADER_MAX_BYTES = 8 + MAX_CSTR_BYTES;
export const RAM_EOS_BYTES = 8;

/** A block as MEM_SIZE announces it. */
export interface WireRamBlock {
  /** Name on the wire, 1 to 255 ASCII bytes. */
  readonly idstr: string;
  /** Length in bytes, a multiple of `pageSizeBytes`. */
  readonly lengthBytes: number;
  /** Size in bytes of the host pages that back the block. */
  readonly pageSizeBytes: number;
}

/**
 * What comes before the content of a page.
 *
 * @param offset byte offset in the block, a multiple of the target page size
 * @param idstr the block, or null when the record before was of the same block (CONTINUE)
 * @param hasChecksum whether a checksum will follow the content
 */
export function writePageHeader(
  writer: ByteWriter,
  offset: number,
  flags: typeof RamSaveFlag.ZERO | typeof RamSaveFlag.PAGE,
  idstr: string | null,
  hasChecksum = false,
): void {
  const modifiers = (idstr === null ? RamSaveFlag.CONTINUE : 0) + (hasChecksum ? RamSaveFlag.CHECKSUM : 0);
  writer.u64(offset + flags + modifiers);
  if (idstr !== null) writer.cstr(idstr);
}

/** A whole record that says the page is zero. @param checksum to put behind it; none by default */
export function writeZeroPage(
  writer: ByteWriter,
  offset: number,
  idstr: string | null,
  checksum?: number,
): void {
  writePageHeader(writer, offset, RamSaveFlag.ZERO, idstr, checksum !== undefined);
  writer.u8(0);
  if (checksum !== undefined) writer.u32(checksum);
}

/** Length of what `writeMemSize()` writes at most, in bytes. */
export function memSizeMaxBytes(blocks: readonly WireRamBlock[]): number {
  return blocks.reduce((sum, block) => sum + 1 + block.idstr.length + 8 + 8, 8);
}

/**
 * Announces the blocks: the first record of the START section.
 *
 * @param options.withHostPageSize whether POSTCOPY_ADVISE was sent; the receiver reads the host page size only then
 */
export function writeMemSize(
  writer: ByteWriter,
  blocks: readonly WireRamBlock[],
  { withHostPageSize }: { readonly withHostPageSize: boolean },
): void {
  const totalBytes = blocks.reduce((sum, block) => sum + block.lengthBytes, 0);
  writer.u64(totalBytes + RamSaveFlag.MEM_SIZE);
  for (const block of blocks) {
    writer.cstr(block.idstr);
    writer.u64(block.lengthBytes);
    if (withHostPageSize && block.pageSizeBytes !== TARGET_PAGE_BYTES) writer.u64(block.pageSizeBytes);
  }
}

export function writeRamEos(writer: ByteWriter): void {
  writer.u64(RamSaveFlag.EOS);
}
