/**
 * Is a page all zero? Such pages cross the wire without their data.
 */
import { TARGET_PAGE_BYTES } from './ram-block.ts';

const ZERO_PAGE = Buffer.alloc(TARGET_PAGE_BYTES);

/** Most pages that are not zero show it here, at less than the price of a call. */
const FIRST_BYTES = 16;

/** @param offset start of a target page in `memory` */
export function isZeroPage(memory: Uint8Array, offset: number): boolean {
  for (let at = offset; at < offset + FIRST_BYTES; at++) if (memory[at] !== 0) return false;
  return ZERO_PAGE.compare(memory, offset, offset + TARGET_PAGE_BYTES) === 0;
}
