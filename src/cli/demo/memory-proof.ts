/**
 * Proves that a moved guest's memory is whole, from two files: the source's memory, frozen when the guest left, and the
 * destination's, where the guest has been running since.
 *
 * What the guest does not write must be equal byte for byte. What it writes is proven by the guest's own books
 * (guest-check.ts): each page in its place, and one edge between two passes.
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { checkGuest, type GuestReport, HEADER_OFFSET } from '../../machine/guest-check.ts';

/** The test guests' code, variables and stack: theirs to change. */
const GUEST_IMAGE = { start: 0x100000, end: 0x200000 };
const PAGE_BYTES = 4096;
const RANGE_OFFSET = HEADER_OFFSET + PAGE_BYTES;
/** In each page of the range the guest changes its counter, the first word. */
const COUNTER_BYTES = 4;
const CHUNK_PAGES = 256;

export interface MemoryProof {
  readonly source: GuestReport;
  readonly destination: GuestReport;
  /** Pages compared byte for byte. */
  readonly comparedPages: number;
  /** Of these, pages that the guest has counted on since it moved. */
  readonly countedOnPages: number;
  /** The first bytes that differ where they must not; empty if the memory is whole. */
  readonly differences: readonly string[];
}

const MAX_DIFFERENCES = 5;

/** @throws {GuestMemoryError} if the guest's own books do not add up, on either side */
export function proveMemory(sourcePath: string, destinationPath: string): MemoryProof {
  const sourceFd = openSync(sourcePath, 'r');
  const destinationFd = openSync(destinationPath, 'r');
  try {
    const source = checkGuest(readerOf(sourceFd));
    const destination = checkGuest(readerOf(destinationFd));
    return { source, destination, ...compare(sourceFd, destinationFd, source.pagesChecked) };
  } finally {
    closeSync(sourceFd);
    closeSync(destinationFd);
  }
}

function compare(sourceFd: number, destinationFd: number, rangePages: number) {
  const lengthBytes = fstatSync(sourceFd).size;
  const rangeEnd = RANGE_OFFSET + rangePages * PAGE_BYTES;
  const differences: string[] = [];
  let comparedPages = 0;
  let countedOnPages = 0;
  if (fstatSync(destinationFd).size !== lengthBytes) differences.push('the two memories differ in size');
  const [mine, theirs] = [Buffer.alloc(CHUNK_PAGES * PAGE_BYTES), Buffer.alloc(CHUNK_PAGES * PAGE_BYTES)];
  for (let chunk = 0; chunk < lengthBytes && differences.length < MAX_DIFFERENCES; chunk += mine.length) {
    const count = readSync(sourceFd, mine, 0, mine.length, chunk);
    readSync(destinationFd, theirs, 0, mine.length, chunk);
    for (let at = 0; at < count; at += PAGE_BYTES) {
      const offset = chunk + at;
      if (offset === HEADER_OFFSET || (offset >= GUEST_IMAGE.start && offset < GUEST_IMAGE.end)) continue;
      comparedPages++;
      if (mine.compare(theirs, at, at + PAGE_BYTES, at, at + PAGE_BYTES) === 0) continue;
      const isCounted = offset >= RANGE_OFFSET && offset < rangeEnd;
      const from = at + (isCounted ? COUNTER_BYTES : 0);
      if (isCounted && mine.compare(theirs, from, at + PAGE_BYTES, from, at + PAGE_BYTES) === 0) {
        countedOnPages++;
      } else if (differences.length < MAX_DIFFERENCES) {
        differences.push(`the page at 0x${offset.toString(16)} differs`);
      }
    }
  }
  return { comparedPages, countedOnPages, differences };
}

function readerOf(fd: number): (offset: number, lengthBytes: number) => Uint8Array {
  return (offset, lengthBytes) => {
    const bytes = Buffer.alloc(lengthBytes);
    return bytes.subarray(0, readSync(fd, bytes, 0, lengthBytes, offset));
  };
}
