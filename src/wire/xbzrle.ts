/**
 * XBZRLE: what a page has become, as the difference to what it was.
 *
 *   repeated   uleb  length of a run of bytes that stay as they are; 0 only in the first pair
 *              uleb  length n of a run of new bytes, at least 1
 *              n     the new bytes
 *
 * What is behind the last run stays as it is. A uleb is one byte below 0x80, or two: the low 7 bits with 0x80 set, then the
 * high 7 bits. A delta applies to the content the destination has now, so deltas must be applied in the order of the
 * stream, to pages that are kept.
 *
 * Source: QEMU migration/xbzrle.c; docs/devel/migration/main.rst.
 */
import { TARGET_PAGE_BYTES } from './ram-record.ts';
import { StreamError } from './stream-error.ts';

/** The only encoding there is: the byte before the length in an XBZRLE record. */
export const ENCODING_FLAG_XBZRLE = 1;

/**
 * Changes `page` as the delta says.
 *
 * @param delta all of it, as it stands in the record
 * @param page 4096 bytes; after an error some of them may have changed
 * @param at stream byte of the delta, for the error
 * @throws {StreamError} `BAD_VALUE` for a run that must not be empty, `BAD_LENGTH` for one that ends outside of the delta or
 *   of the page
 */
export function applyXbzrle(delta: Uint8Array, page: Uint8Array, at = 0): void {
  walkRuns(delta, at, page);
}

/** Throws what `applyXbzrle()` would, whatever the page. */
export function checkXbzrle(delta: Uint8Array, at = 0): void {
  walkRuns(delta, at, undefined);
}

function walkRuns(delta: Uint8Array, at: number, page: Uint8Array | undefined): void {
  let read = 0;
  let written = 0;

  const runLength = (): number => {
    const low = delta[read];
    if (low === undefined)
      throw new StreamError('BAD_LENGTH', 'XBZRLE delta ends within a pair of runs', at + read);
    if (low < 0x80) {
      read += 1;
      return low;
    }
    const high = delta[read + 1];
    if (high === undefined)
      throw new StreamError('BAD_LENGTH', 'XBZRLE delta ends within a number', at + read);
    if (high >= 0x80) {
      throw new StreamError('BAD_VALUE', 'Number in an XBZRLE delta must take at most two bytes', at + read);
    }
    read += 2;
    return (low & 0x7f) | (high << 7);
  };

  while (read < delta.length) {
    const pairRead = read;
    const keptBytes = runLength();
    if (keptBytes === 0 && pairRead > 0) {
      throw new StreamError('BAD_VALUE', 'Run of kept bytes in an XBZRLE delta is empty', at + pairRead);
    }
    const changedRead = read;
    const changedBytes = runLength();
    if (changedBytes === 0) {
      throw new StreamError(
        'BAD_VALUE',
        'Run of changed bytes in an XBZRLE delta is empty',
        at + changedRead,
      );
    }
    written += keptBytes;
    if (written + changedBytes > TARGET_PAGE_BYTES) {
      throw new StreamError(
        'BAD_LENGTH',
        `XBZRLE delta must end within its page of ${TARGET_PAGE_BYTES} bytes, got ${written + changedBytes}`,
        at + pairRead,
      );
    }
    if (read + changedBytes > delta.length) {
      throw new StreamError(
        'BAD_LENGTH',
        `XBZRLE delta must have its ${changedBytes} changed bytes, got ${delta.length - read}`,
        at + read,
      );
    }
    page?.set(delta.subarray(read, read + changedBytes), written);
    read += changedBytes;
    written += changedBytes;
  }
}
