/**
 * The mapped-ram file: a migration stream in which every page has its place.
 *
 *   ┌──────────────────────────────────────────────────┐ 0, or where the stream begins in a file of someone's own
 *   │ magic, version, CONFIGURATION                    │   with the capability `mapped-ram` among its subsections
 *   │ section START of "ram", version 4                │
 *   │ be64 total of the lengths | MEM_SIZE             │
 *   ├──────────────────────────────────────────────────┤ for each block, in the order of the source's list:
 *   │ cstr idstr, be64 used length                     │
 *   │ mapped-ram header (below)                        │
 *   │ bitmap                                           │
 *   │ nothing, up to a multiple of 1 MiB               │
 *   │ pages: `used length` bytes, page i at 4096 × i   │
 *   ├──────────────────────────────────────────────────┤ right behind the pages of the last block:
 *   │ be64 EOS, footer                                 │
 *   │ PART sections of RAM, END of RAM: each only EOS  │   QEMU 10 says SWITCHOVER_START before END
 *   │ FULL sections of the devices                     │
 *   │ EOF, VM description                              │
 *   └──────────────────────────────────────────────────┘
 *
 * Mapped-ram header:
 *
 *   byte  size  type  field
 *   0     4     be32  version, 1
 *   4     8     be64  page size, 4096
 *   12    8     be64  where the bitmap is in the file
 *   20    8     be64  where the pages are in the file, a multiple of 4096
 *
 * Bitmap: a bit per page, padded to whole 64-bit words, as a little-endian host has them: page i is bit i % 8 of byte i / 8.
 * A clear bit is a zero page, whatever stands in its place; usually nothing was written there and the file has a hole. No other
 * page records occur. The places count from the first byte of the file, also if the stream begins later. A source may put
 * the bitmap and the pages elsewhere than this picture has them; the next block begins where the pages end.
 *
 * Written by QEMU from 9.0 on, with `multifd` and `direct-io` in the same way; excludes xbzrle and postcopy-ram.
 * Source: QEMU migration/ram.c, mapped_ram_setup_ramblock(), ram_save_file_bmap(), parse_ramblock_mapped_ram().
 */
import type { ByteWriter } from '../wire/byte-writer.ts';
import { TARGET_PAGE_BYTES, type WireRamBlock } from '../wire/ram-record.ts';

export const MAPPED_RAM_CAPABILITY = 'mapped-ram';
export const MAPPED_RAM_HEADER_BYTES = 28;
export const MAPPED_RAM_VERSION = 1;
/** Where pages may begin; covers the block size of any disk, for direct I/O. */
export const PAGES_ALIGNMENT_BYTES = 1024 * 1024;

const BITMAP_WORD_BITS = 64;
const BITMAP_WORD_BYTES = 8;

export interface MappedRamHeader {
  readonly bitmapOffset: number;
  readonly pagesOffset: number;
}

/** Length of the bitmap of so many pages, in bytes. */
export function bitmapBytes(pageCount: number): number {
  return Math.ceil(pageCount / BITMAP_WORD_BITS) * BITMAP_WORD_BYTES;
}

/** Where a block is put whose name begins at `offset` in the file. */
export function placeBlock(block: WireRamBlock, offset: number): MappedRamHeader & { readonly end: number } {
  const bitmapOffset = offset + 1 + block.idstr.length + 8 + MAPPED_RAM_HEADER_BYTES;
  const bitmapEnd = bitmapOffset + bitmapBytes(block.lengthBytes / TARGET_PAGE_BYTES);
  const pagesOffset = Math.ceil(bitmapEnd / PAGES_ALIGNMENT_BYTES) * PAGES_ALIGNMENT_BYTES;
  return { bitmapOffset, pagesOffset, end: pagesOffset + block.lengthBytes };
}

/** A block's entry in the list: name, length, header. */
export function writeBlockEntry(writer: ByteWriter, block: WireRamBlock, header: MappedRamHeader): void {
  writer.cstr(block.idstr);
  writer.u64(block.lengthBytes);
  writer.u32(MAPPED_RAM_VERSION);
  writer.u64(TARGET_PAGE_BYTES);
  writer.u64(header.bitmapOffset);
  writer.u64(header.pagesOffset);
}

/** Length of what `writeBlockEntry()` writes, in bytes. */
export function blockEntryBytes(block: WireRamBlock): number {
  return 1 + block.idstr.length + 8 + MAPPED_RAM_HEADER_BYTES;
}
