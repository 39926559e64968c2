/**
 * The mapped-ram file: a migration stream in which every page has its place.
 *
 *   ┌──────────────────────────────────────────────────┐ 0, or where the stream begins in a file of someone's own
 *   │ magic, version, CONFIGURATION                    │   with the capability `mapped-ram` among its subsections
 *   │ section START of "ram", version 4                │
 *   │ be64 total of the lengths | MEM_SIZE             │
 *   ├──────────────────────────────────────────────────┤ for each block, in the order of the source's list:
 *   │ cstr idstr, be64 used length                     │
 *   │ mapped-ram header (see wire/mapped-ram.ts)       │
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
 * A clear bit in the bitmap is a zero page, whatever stands in its place; usually nothing was written there and the file has
 * a hole. No other page records occur. The places count from the first byte of the file, also if the stream begins later. A
 * source may put the bitmap and the pages elsewhere than this picture has them; the next block begins where the pages end.
 *
 * Written by QEMU from 9.0 on, with `multifd` and `direct-io` in the same way; excludes xbzrle and postcopy-ram.
 * Source: QEMU migration/ram.c, mapped_ram_setup_ramblock(), ram_save_file_bmap(), parse_ramblock_mapped_ram().
 */
import type { ByteWriter } from '../wire/byte-writer.ts';
import {
  MAPPED_RAM_ALIGNMENT_BYTES,
  MAPPED_RAM_HEADER_BYTES,
  type MappedRamHeader,
  mappedRamBitmapBytes,
  writeMappedRamHeader,
} from '../wire/mapped-ram.ts';
import type { WireRamBlock } from '../wire/ram-record.ts';

/** Where a block is put whose name begins at `offset` in the file. */
export function placeBlock(block: WireRamBlock, offset: number): MappedRamHeader & { readonly end: number } {
  const bitmapOffset = offset + blockEntryBytes(block);
  const bitmapEnd = bitmapOffset + mappedRamBitmapBytes(block.lengthBytes);
  const pagesOffset = Math.ceil(bitmapEnd / MAPPED_RAM_ALIGNMENT_BYTES) * MAPPED_RAM_ALIGNMENT_BYTES;
  return { bitmapOffset, pagesOffset, end: pagesOffset + block.lengthBytes };
}

/** A block's entry in the list: name, length, header. */
export function writeBlockEntry(writer: ByteWriter, block: WireRamBlock, header: MappedRamHeader): void {
  writer.cstr(block.idstr);
  writer.u64(block.lengthBytes);
  writeMappedRamHeader(writer, header);
}

/** Length of what `writeBlockEntry()` writes, in bytes. */
export function blockEntryBytes(block: WireRamBlock): number {
  return 1 + block.idstr.length + 8 + MAPPED_RAM_HEADER_BYTES;
}
