/**
 * Is a page all zero? Such pages cross the wire without their data.
 */
import { TARGET_PAGE_BYTES } from './ram-block.ts';

const ZERO_PAGE = Buffer.alloc(TARGET_PAGE_BYTES);

/** @param offset start of a target page in `memory` */
export function isZeroPage(memory: Uint8Array, offset: number): boolean {
  return ZERO_PAGE.compare(memory, offset, offset + TARGET_PAGE_BYTES) === 0;
}
