/**
 * Guest memory that stands in a file: what a source sends of a snapshot.
 *
 * Nobody writes to it, so there is nothing to track. Pages are read one by one as they are asked for, and ahead when they
 * are read in order: pages that follow each other in a block do so in the file, at most a few bytes apart.
 */
import { preadInto } from '../linux/file-io.ts';
import { type Mapping, mapAnonymous } from '../linux/memory.ts';
import type { PageBitmap } from '../memory/page-bitmap.ts';
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import { MigrationError } from '../migration/migration-error.ts';
import type { DirtyTracker, SourceMemory } from '../migration/source-ports.ts';
import type { SnapshotBlock } from '../snapshot/snapshot.ts';

const READ_AHEAD_BYTES = 256 * 1024;
/** A page at most so far behind the last one is taken as the next in order: zero pages are passed over. */
const MAX_STEP_BYTES = 64 * 1024;

export class FileMemory implements SourceMemory {
  readonly blocks: readonly SnapshotBlock[];
  readonly #fd: number;
  readonly #path: string;
  readonly #window: Mapping = mapAnonymous(READ_AHEAD_BYTES);
  /** The part of the file that the window holds. */
  #windowAt = 0;
  #windowEnd = 0;

  /** @param path for errors */
  constructor(fd: number, path: string, blocks: readonly SnapshotBlock[]) {
    this.#fd = fd;
    this.#path = path;
    this.blocks = blocks;
  }

  /** @throws {MigrationError} if the file cannot be read there any more */
  copyPage(block: number, offset: number, target: Uint8Array, at: number): void {
    const page = offset / TARGET_PAGE_BYTES;
    const fileOffset = (this.blocks[block] as SnapshotBlock).fileOffsetOf(page);
    if (fileOffset < this.#windowAt || fileOffset + TARGET_PAGE_BYTES > this.#windowEnd) {
      this.#read(fileOffset);
    }
    const from = fileOffset - this.#windowAt;
    target.set(this.#window.bytes.subarray(from, from + TARGET_PAGE_BYTES), at);
  }

  /** Whoever wrote the file has looked for zero pages. */
  isZeroPage(block: number, offset: number): boolean {
    return !(this.blocks[block] as SnapshotBlock).hasContent.isSet(offset / TARGET_PAGE_BYTES);
  }

  close(): void {
    this.#window.unmap();
  }

  #read(fileOffset: number): void {
    const stepBytes = fileOffset - this.#windowEnd;
    const isInOrder = stepBytes > -TARGET_PAGE_BYTES && stepBytes <= MAX_STEP_BYTES;
    const wantedBytes = isInOrder ? READ_AHEAD_BYTES : TARGET_PAGE_BYTES;
    this.#windowAt = fileOffset;
    this.#windowEnd = fileOffset;
    let readBytes: number;
    try {
      readBytes = preadInto(this.#fd, this.#window.address, wantedBytes, fileOffset);
    } catch (error) {
      throw new MigrationError(`"${this.#path}" cannot be read: ${(error as Error).message}`, {
        cause: error,
      });
    }
    if (readBytes < TARGET_PAGE_BYTES) {
      throw new MigrationError(
        `"${this.#path}" ends before the page at byte ${fileOffset}: it has become shorter since it was opened`,
      );
    }
    this.#windowEnd = fileOffset + readBytes;
  }
}

/** The dirty tracker of memory that does not change. */
export class StillMemoryTracker implements DirtyTracker {
  readonly #hasContent: readonly PageBitmap[];

  /** @param hasContent per block, the pages that are not zero */
  constructor(hasContent: readonly PageBitmap[]) {
    this.#hasContent = hasContent;
  }

  start(touched: readonly PageBitmap[]): void {
    this.#hasContent.forEach((bitmap, block) => {
      touched[block]?.addAll(bitmap);
    });
  }

  sync(): void {}

  stop(): void {}
}
