/**
 * The two files in which a host keeps what it has fetched of a snapshot: `<digest>.pages` and `<digest>.state`.
 *
 *   pages   byte 0     magic, nonce; then every page of every block at its place, sparse
 *   state   byte 0     magic "postcopy", u32 version, u32 clean, nonce (16 bytes), boot id (36 characters),
 *                      digest (64 characters), u64 pages; little endian, in a page of 4096 bytes
 *           4096       present: a bit per page of each block, every block from a word of its own on
 *           then       claims: a byte per page, the number of the process that has asked for it; from a page of its own on
 *
 * The state is mapped by every process that uses the snapshot. A bit of `present` is set when the page stands in the file
 * for those who read it now. That it stands on disk too is only sure if `clean` is set: else the bits hold for the boot in
 * which they were set, which the boot id names.
 *
 * The digest is that of the whole snapshot (pull-session.ts), so that the layout need not be kept. The nonce says that the
 * two files belong together.
 */
import { type RamBlockLayout, TARGET_PAGE_BYTES } from '../memory/ram-block.ts';

export const CACHE_MAGIC = 'postcopy';
export const CACHE_VERSION = 1;

/** What the pages file begins with. */
export const PAGES_HEADER_BYTES = TARGET_PAGE_BYTES;
const STATE_HEADER_BYTES = 4096;

/** Fields of both headers. */
export const HeaderField = {
  MAGIC: { at: 0, lengthBytes: 8 },
  VERSION: { at: 8, lengthBytes: 4 },
  CLEAN: { at: 12, lengthBytes: 4 },
  NONCE: { at: 16, lengthBytes: 16 },
  BOOT_ID: { at: 32, lengthBytes: 36 },
  DIGEST: { at: 68, lengthBytes: 64 },
  PAGES: { at: 132, lengthBytes: 8 },
} as const;

/** Bytes of the state file that are locked: while it is opened and closed, by every user, and one by each process. */
export const LockByte = { SETUP: 0, USERS: 1, FIRST_PROCESS: 16 } as const;

/** Numbers of processes are 1 to this. */
export const MAX_PROCESSES = 254;

export interface CacheLayout {
  readonly pages: number;
  readonly pagesFileBytes: number;
  readonly stateFileBytes: number;
  readonly claimsAt: number;
  readonly blocks: readonly {
    readonly pageCount: number;
    /** Number of its first page, counted over all blocks. */
    readonly firstPage: number;
    /** Where its first page stands in the pages file. */
    readonly pagesAt: number;
    /** Where its bits stand in the state file. */
    readonly presentAt: number;
    readonly presentWords: number;
  }[];
}

export function cacheLayout(blocks: readonly RamBlockLayout[]): CacheLayout {
  let firstPage = 0;
  let presentAt = STATE_HEADER_BYTES;
  const placed = blocks.map(({ lengthBytes }) => {
    const pageCount = lengthBytes / TARGET_PAGE_BYTES;
    const presentWords = Math.ceil(pageCount / 32);
    const pagesAt = PAGES_HEADER_BYTES + firstPage * TARGET_PAGE_BYTES;
    const block = { pageCount, firstPage, pagesAt, presentAt, presentWords };
    firstPage += pageCount;
    presentAt += presentWords * 4;
    return block;
  });
  const claimsAt = Math.ceil(presentAt / 4096) * 4096;
  return {
    pages: firstPage,
    pagesFileBytes: PAGES_HEADER_BYTES + firstPage * TARGET_PAGE_BYTES,
    stateFileBytes: claimsAt + Math.ceil(firstPage / 4096) * 4096,
    claimsAt,
    blocks: placed,
  };
}
