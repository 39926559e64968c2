/**
 * Writes dirty pages as RAM records, and the sections around them.
 *
 * Every `write…` leaves whole sections behind, except `writeFinal`, whose one section may stretch over many calls.
 */
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import type { Trace } from '../telemetry/trace-events.ts';
import type { ByteWriter } from '../wire/byte-writer.ts';
import { PageChecksums } from '../wire/page-checksum.ts';
import {
  PAGE_RECORD_MAX_BYTES,
  RAM_EOS_BYTES,
  RamSaveFlag,
  writeMemSize,
  writePageHeader,
  writeRamEos,
  writeZeroPage,
} from '../wire/ram-record.ts';
import {
  RAM_IDSTR,
  RAM_INSTANCE_ID,
  RAM_VERSION_ID,
  SECTION_CONTINUATION_BYTES,
  SECTION_FOOTER_BYTES,
  SectionType,
  writeSectionContinuation,
  writeSectionFooter,
  writeSectionStart,
} from '../wire/sections.ts';
import type { DirtyPages } from './dirty-pages.ts';
import type { PageRequest, PageRequestQueue } from './page-request-queue.ts';
import type { PushOrder } from './push-order.ts';
import type { SourceMemory } from './source-ports.ts';
import type { SourceStatistics } from './source-statistics.ts';

/** Of requested ranges so much is written at a time. */
const RANGE_CHUNK_BYTES = 32 * 1024;

/** What closes a section that was begun. */
export const RAM_SECTION_TAIL_BYTES = RAM_EOS_BYTES + SECTION_FOOTER_BYTES;
/** What `writeEmptyEnd` writes. */
export const EMPTY_RAM_END_BYTES = SECTION_CONTINUATION_BYTES + RAM_SECTION_TAIL_BYTES;

export class RamWriter {
  readonly #memory: SourceMemory;
  readonly #pages: DirtyPages;
  readonly #statistics: SourceStatistics;
  readonly #trace: Trace;
  readonly #sectionId: number;
  /** The block that CONTINUE refers to, -1 for none. */
  #namedBlock = -1;
  /** Behind every page, if there are to be any. */
  readonly #checksums: PageChecksums | undefined;
  #isFinalOpen = false;

  constructor(
    memory: SourceMemory,
    pages: DirtyPages,
    statistics: SourceStatistics,
    trace: Trace,
    sectionId: number,
    hasChecksums: boolean,
  ) {
    if (hasChecksums) this.#checksums = new PageChecksums(memory.blocks);
    this.#memory = memory;
    this.#pages = pages;
    this.#statistics = statistics;
    this.#trace = trace;
    this.#sectionId = sectionId;
  }

  /** The next record names its block again: the destination may have another idea of the last one. */
  forgetBlock(): void {
    this.#namedBlock = -1;
  }

  /** START: announces the blocks. @param withHostPageSize whether POSTCOPY_ADVISE was sent */
  writeStart(writer: ByteWriter, withHostPageSize: boolean): void {
    this.#traceStart('start');
    writeSectionStart(writer, SectionType.START, this.#sectionId, RAM_IDSTR, RAM_INSTANCE_ID, RAM_VERSION_ID);
    writeMemSize(writer, this.#memory.blocks, { withHostPageSize });
    this.#endSection(writer);
  }

  /**
   * PART: the next dirty pages, about `limitBytes` of them.
   *
   * @param reservedBytes left free behind the section
   * @returns false if the scan reached its end
   */
  writePart(writer: ByteWriter, limitBytes: number, reservedBytes = 0): boolean {
    const head = writer.position;
    writeSectionContinuation(writer, SectionType.PART, this.#sectionId);
    const empty = writer.position;
    const hasMore = this.#writePages(writer, limitBytes, reservedBytes);
    this.#endUnlessEmpty(writer, head, empty);
    return hasMore;
  }

  /**
   * PART: requested pages that have not been sent. The scan goes on behind the last that was asked for alone.
   *
   * Of ranges it writes a piece: what a page may have to wait for that is asked for next.
   */
  writeRequested(writer: ByteWriter, requests: PageRequestQueue, nowMs: number): void {
    const head = writer.position;
    writeSectionContinuation(writer, SectionType.PART, this.#sectionId);
    const empty = writer.position;
    while (!requests.isEmpty) {
      const request = requests.first();
      const endBytes = request.isRange ? empty + RANGE_CHUNK_BYTES : Number.POSITIVE_INFINITY;
      while (request.page < request.endPage && this.#hasRoom(writer, 0) && writer.position < endBytes) {
        // What has been sent already is in the stream.
        const page = this.#pages.nextDirty(request.block, request.page, request.endPage);
        request.page = page < 0 ? request.endPage : page + 1;
        if (page < 0) continue;
        this.#writePage(writer, request.block, page);
        this.#countRequested(request, nowMs);
      }
      if (request.page < request.endPage) break;
      if (!request.isRange) this.#pages.moveTo(request.block, request.endPage);
      requests.removeFirst();
    }
    this.#endUnlessEmpty(writer, head, empty);
  }

  /** PART: the next pages of an order, about `limitBytes` of them; it must be at a dirty page. */
  writeOrdered(writer: ByteWriter, order: PushOrder, limitBytes: number, reservedBytes: number): void {
    const head = writer.position;
    writeSectionContinuation(writer, SectionType.PART, this.#sectionId);
    const empty = writer.position;
    while (this.#hasRoom(writer, reservedBytes) && writer.position - empty < limitBytes && order.seek()) {
      this.#writePage(writer, order.block, order.page);
    }
    this.#endUnlessEmpty(writer, head, empty);
  }

  /** END: everything that remains, however many calls that takes. @returns false once it is complete */
  writeFinal(writer: ByteWriter): boolean {
    if (!this.#isFinalOpen) {
      this.#isFinalOpen = true;
      this.#traceStart('end');
      writeSectionContinuation(writer, SectionType.END, this.#sectionId);
    }
    const hasMore = this.#writePages(writer, Number.POSITIVE_INFINITY, 0);
    if (!hasMore) this.#endSection(writer);
    return hasMore;
  }

  /** END without pages. */
  writeEmptyEnd(writer: ByteWriter): void {
    this.#traceStart('end');
    writeSectionContinuation(writer, SectionType.END, this.#sectionId);
    this.#endSection(writer);
  }

  /** @returns false if the scan reached its end */
  #writePages(writer: ByteWriter, limitBytes: number, reservedBytes: number): boolean {
    const cursor = this.#pages.cursor;
    const from = writer.position;
    while (this.#hasRoom(writer, reservedBytes) && writer.position - from < limitBytes) {
      if (!this.#pages.seek()) return false;
      this.#writePage(writer, cursor.block, cursor.page);
      cursor.page++;
    }
    return this.#pages.seek();
  }

  #countRequested({ isRange, queuedAtMs }: PageRequest, nowMs: number): void {
    if (isRange) this.#statistics.readAheadPages++;
    else {
      this.#statistics.demandedPages++;
      this.#statistics.requestLatency.record((nowMs - queuedAtMs) * 1000);
    }
  }

  #hasRoom(writer: ByteWriter, reservedBytes: number): boolean {
    return writer.remaining >= PAGE_RECORD_MAX_BYTES + RAM_SECTION_TAIL_BYTES + reservedBytes;
  }

  #writePage(writer: ByteWriter, block: number, page: number): void {
    const from = writer.position;
    const offset = page * TARGET_PAGE_BYTES;
    const idstr = block === this.#namedBlock ? null : (this.#memory.blocks[block]?.idstr ?? null);
    this.#namedBlock = block;
    // Before the content is read: a write after this makes the page dirty again.
    this.#pages.markSent(block, page);
    if (this.#pages.isZero(block, page)) {
      writeZeroPage(writer, offset, idstr, this.#checksums?.ofZeroPage(block, offset));
      this.#statistics.zeroPages++;
      this.#statistics.zeroPageBytes += writer.position - from;
    } else {
      writePageHeader(writer, offset, RamSaveFlag.PAGE, idstr, this.#checksums !== undefined);
      const { target, position } = writer;
      this.#memory.copyPage(block, offset, target, position);
      writer.position += TARGET_PAGE_BYTES;
      if (this.#checksums !== undefined) writer.u32(this.#checksums.ofPage(block, offset, target, position));
      this.#statistics.normalPages++;
      this.#statistics.pageBytes += writer.position - from;
    }
  }

  /** Closes a PART, or takes its header back if nothing is in it. */
  #endUnlessEmpty(writer: ByteWriter, head: number, empty: number): void {
    if (writer.position === empty) {
      writer.position = head;
      return;
    }
    this.#traceStart('part');
    this.#endSection(writer);
  }

  #endSection(writer: ByteWriter): void {
    writeRamEos(writer);
    writeSectionFooter(writer, this.#sectionId);
  }

  #traceStart(type: string): void {
    if (!this.#trace.isEnabled('savevm_section_start')) return;
    this.#trace.emit('savevm_section_start', { idstr: RAM_IDSTR, sectionId: this.#sectionId, type });
  }
}
