/**
 * RAM blocks: the ranges of guest memory that a migration moves, as both ends must agree on them.
 *
 * Terms are QEMU's: a block has an `idstr` (its name on the wire), an `offset` is within a block.
 */

/** Target (guest) page size in bytes: the unit of the wire protocol, 4 KiB on x86. */
export const TARGET_PAGE_BYTES = 4096;

/** What both ends must agree on for one block. */
export interface RamBlockLayout {
  /** Name on the wire, 1 to 255 ASCII bytes, e.g. `pc.ram`. */
  readonly idstr: string;
  /** Length in bytes, a multiple of `pageSizeBytes`. */
  readonly lengthBytes: number;
  /** Size in bytes of the host pages that back the block: 4096, or 2 MiB on hugetlbfs. */
  readonly pageSizeBytes: number;
}

/** A block of this process's memory. */
export interface RamBlock extends RamBlockLayout {
  /** Where the block is mapped in this process; page-aligned. */
  readonly hostAddress: bigint;
}
