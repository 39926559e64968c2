/**
 * What the destination is to drop at the switch: every page that it lacks, or has in an old form.
 */
import { type RamBlockLayout, TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import type { Trace } from '../telemetry/trace-events.ts';
import { type DiscardRange, encodeDiscards } from '../wire/commands.ts';
import type { DirtyPages } from './dirty-pages.ts';

/** @returns the POSTCOPY_RAM_DISCARD commands; none for a block of which nothing is dirty */
export function encodeDirtyDiscards(
  blocks: readonly RamBlockLayout[],
  pages: DirtyPages,
  trace: Trace,
): Uint8Array[] {
  const ranges = blocks.map((): DiscardRange[] => []);
  pages.forEachDirtyRun((block, firstPage, pageCount) => {
    const range = { start: firstPage * TARGET_PAGE_BYTES, lengthBytes: pageCount * TARGET_PAGE_BYTES };
    ranges[block]?.push(range);
    if (trace.isEnabled('postcopy_send_discard_bm_ram')) {
      trace.emit('postcopy_send_discard_bm_ram', { idstr: blocks[block]?.idstr ?? '', ...range });
    }
  });
  return blocks.flatMap(({ idstr }, block) => encodeDiscards(idstr, ranges[block] ?? []));
}
