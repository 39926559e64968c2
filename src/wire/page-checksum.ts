/**
 * Checksum of a RAM record, between two of ours: over what is to be written and where.
 *
 *   CRC-32 (that of zlib) of   the idstr of the block
 *                              be64 byte offset in it, with PAGE or ZERO in the low bits
 *                              the 4096 bytes of the page; nothing for a page of zeros
 *
 * It finds what a network or a memory has changed by mistake, not what somebody changes on purpose: for that there is TLS.
 */
import * as zlib from 'node:zlib';
import { RamSaveFlag, TARGET_PAGE_BYTES, type WireRamBlock } from './ram-record.ts';

export const PAGE_CHECKSUM_BYTES = 4;

const TWO_TO_THE_32 = 0x1_0000_0000;

/** @param value of what came before `bytes`; 0 at first */
export type Crc32 = (bytes: Uint8Array, value?: number) => number;

/** Node has one from 20.15 on. */
export const crc32: Crc32 = (zlib as { readonly crc32?: Crc32 }).crc32 ?? crc32InJavaScript;

export class PageChecksums {
  /** Of the names. */
  readonly #blocks: readonly number[];
  readonly #place = new Uint8Array(8);
  readonly #placeView = new DataView(this.#place.buffer);

  constructor(blocks: readonly WireRamBlock[]) {
    this.#blocks = blocks.map(({ idstr }) => crc32(new TextEncoder().encode(idstr)));
  }

  /**
   * @param offset byte offset in the block
   * @param position of the content in `bytes`
   */
  ofPage(block: number, offset: number, bytes: Uint8Array, position: number): number {
    return crc32(
      bytes.subarray(position, position + TARGET_PAGE_BYTES),
      this.#ofPlace(block, offset, RamSaveFlag.PAGE),
    );
  }

  ofZeroPage(block: number, offset: number): number {
    return this.#ofPlace(block, offset, RamSaveFlag.ZERO);
  }

  #ofPlace(block: number, offset: number, flag: number): number {
    this.#placeView.setUint32(0, Math.floor(offset / TWO_TO_THE_32));
    this.#placeView.setUint32(4, (offset % TWO_TO_THE_32) + flag);
    return crc32(this.#place, this.#blocks[block] as number);
  }
}

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = (value & 1) === 0 ? value >>> 1 : (value >>> 1) ^ 0xedb88320;
  return value;
});

/** The same, for a Node without it: about a tenth as fast. */
export function crc32InJavaScript(bytes: Uint8Array, value = 0): number {
  let crc = ~value;
  for (const byte of bytes) crc = (TABLE[(crc ^ byte) & 0xff] as number) ^ (crc >>> 8);
  return ~crc >>> 0;
}
