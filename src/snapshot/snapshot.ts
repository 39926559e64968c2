/**
 * A snapshot that is open for reading: what a machine was, and where in the file each page of its RAM stands.
 *
 * The file is read by `pread(2)` on `fd`, at places that this tells; any number of threads and processes may. A thread is
 * given `data` of the blocks by `postMessage()` (its memory is shared, not copied) and makes blocks of it again.
 */
import { PageBitmap } from '../memory/page-bitmap.ts';
import { TARGET_PAGE_BYTES, type WireRamBlock } from '../wire/ram-record.ts';

/**
 *   mapped-ram  every page has a place of its own (see mapped-ram-layout.ts)
 *   stream      the bytes of a migration as they came, with an index of the last content of each page
 */
export type SnapshotFormat = 'mapped-ram' | 'stream';

export interface Snapshot {
  readonly path: string;
  /** For reading; it belongs to the snapshot. */
  readonly fd: number;
  readonly format: SnapshotFormat;
  /** As CONFIGURATION names it. */
  readonly machineType: string;
  /** 16 bytes, if the source was told to send it. */
  readonly uuid: Uint8Array | undefined;
  /** The id the source gave to RAM; the device sections have others. */
  readonly ramSectionId: number;
  /** In the order in which the source announced them. */
  readonly blocks: readonly SnapshotBlock[];
  /** FULL sections, verbatim, without EOF. */
  readonly deviceSections: Uint8Array;
  /** The JSON, if the file has it. */
  readonly vmDescription: Uint8Array | undefined;
  /** Closes `fd`. May be called twice. */
  close(): void;
}

export interface SnapshotBlock extends WireRamBlock {
  /** A clear bit: the page is zero. */
  readonly hasContent: PageBitmap;
  /** Where in the file the 4096 bytes of a page stand that has content; for other pages it means nothing. */
  fileOffsetOf(page: number): number;
  readonly data: SnapshotBlockData;
}

/** What a block is made of, to be given to another thread. */
export interface SnapshotBlockData extends WireRamBlock {
  /** Words of `hasContent`, in shared memory. */
  readonly contentWords: Int32Array;
  /** Where page 0 stands, when each page follows the one before; or where each page stands, in shared memory. */
  readonly offsets: number | Float64Array;
}

/** Makes a block of its data, in any thread. */
export function openBlock(data: SnapshotBlockData): SnapshotBlock {
  const { idstr, lengthBytes, pageSizeBytes, contentWords, offsets } = data;
  const hasContent = new PageBitmap(lengthBytes / TARGET_PAGE_BYTES, contentWords);
  const fileOffsetOf =
    typeof offsets === 'number'
      ? (page: number) => offsets + page * TARGET_PAGE_BYTES
      : (page: number) => offsets[page]!;
  return { idstr, lengthBytes, pageSizeBytes, hasContent, fileOffsetOf, data };
}
