/**
 * Writes a snapshot: a mapped-ram file (see mapped-ram-layout.ts), which is a snapshot only once it is whole.
 *
 * Pages go to their places as they come, in any order and as often as they come; the last one counts. All else, also the magic
 * that the file begins with, is written at the end, so that a file which nobody finished reads as none. Not synchronised with
 * anything: one thread writes.
 */
import assert from 'node:assert/strict';
import { readSync, writeSync } from 'node:fs';
import { punchHole, WriteRanges } from '../linux/file-io.ts';
import { PageBitmap } from '../memory/page-bitmap.ts';
import { ByteWriter } from '../wire/byte-writer.ts';
import { type MappedRamHeader, mappedRamBitmapBytes } from '../wire/mapped-ram.ts';
import {
  RAM_EOS_BYTES,
  RamSaveFlag,
  TARGET_PAGE_BYTES,
  type WireRamBlock,
  writeRamEos,
} from '../wire/ram-record.ts';
import {
  EOF_BYTES,
  fileHeaderBytes,
  MAPPED_RAM_CAPABILITY,
  RAM_IDSTR,
  RAM_INSTANCE_ID,
  RAM_VERSION_ID,
  SECTION_CONTINUATION_BYTES,
  SECTION_FOOTER_BYTES,
  SECTION_START_MAX_BYTES,
  SectionType,
  writeEof,
  writeFileHeader,
  writeSectionContinuation,
  writeSectionFooter,
  writeSectionStart,
} from '../wire/sections.ts';
import { blockEntryBytes, placeBlock, writeBlockEntry } from './mapped-ram-layout.ts';
import { PartialFile } from './partial-file.ts';
import { withPath } from './snapshot-error.ts';

export interface SnapshotWriterOptions {
  readonly path: string;
  /** As CONFIGURATION names it. */
  readonly machineType: string;
  /** 16 bytes, if CONFIGURATION has them. */
  readonly uuid?: Uint8Array | undefined;
  /** The id the source gave to RAM: no device section has it. */
  readonly ramSectionId: number;
  /** In the order in which the source announced them. None is empty. */
  readonly blocks: readonly WireRamBlock[];
  /** Whether to replace a file that is there. */
  readonly overwrite?: boolean;
}

interface Block extends MappedRamHeader {
  readonly layout: WireRamBlock;
  /** Where its entry in the list begins. */
  readonly entryOffset: number;
  readonly pageCount: number;
  /** Pages whose content is in the file and counts. */
  readonly hasContent: PageBitmap;
  /** Pages that are zero now, with older content in the file. */
  readonly isStale: PageBitmap;
}

export class SnapshotWriter {
  readonly path: string;
  readonly #options: SnapshotWriterOptions;
  readonly #file: PartialFile;
  readonly #blocks: readonly Block[];
  /** Where the pages of the last block end. */
  readonly #tailOffset: number;

  /** Pages that follow one another in the file, not written yet. */
  readonly #queue = new WriteRanges();
  #queueBlock = 0;
  #queueFirstPage = 0;
  #queuePageCount = 0;

  /** @throws {SnapshotError} `EXISTS`, `SYSTEM` */
  constructor(options: SnapshotWriterOptions) {
    const { path, machineType, uuid, overwrite = false } = options;
    this.path = path;
    this.#options = options;
    const listOffset =
      fileHeaderBytes(machineType, [MAPPED_RAM_CAPABILITY], uuid) + sectionStartBytes() + TOTAL_BYTES;
    [this.#blocks, this.#tailOffset] = placeBlocks(options.blocks, listOffset);
    this.#file = new PartialFile(path, overwrite);
  }

  /** The name of the file until it is finished. */
  get partialPath(): string {
    return this.#file.partialPath;
  }

  /** The descriptor of the file; it belongs to this, and is closed with it. */
  get fd(): number {
    return this.#file.fd;
  }

  /** Pages of a block that are not zero so far, those in the queue included. Not to be changed. */
  hasContent(block: number): PageBitmap {
    return this.#block(block).hasContent;
  }

  /**
   * Writes a page at once.
   *
   * @throws {SnapshotError} `SYSTEM`
   */
  writePage(block: number, page: number, content: Uint8Array): void {
    assert.equal(content.length, TARGET_PAGE_BYTES);
    const { pagesOffset } = this.#take(block, page);
    if (this.#isQueued(block, page)) this.flush();
    this.#write(content, pagesOffset + page * TARGET_PAGE_BYTES);
  }

  /**
   * Writes a page that stands at an address, together with those that follow it: what is there must stay until `flush()`.
   *
   * @throws {SnapshotError} `SYSTEM`
   */
  queuePage(block: number, page: number, address: bigint): void {
    this.#take(block, page);
    const isNext = block === this.#queueBlock && page === this.#queueFirstPage + this.#queuePageCount;
    if (this.#queuePageCount === 0 || !isNext || this.#queue.isFull) {
      this.flush();
      this.#queueBlock = block;
      this.#queueFirstPage = page;
    }
    this.#queue.add(address, TARGET_PAGE_BYTES);
    this.#queuePageCount++;
  }

  /**
   * Writes what `queuePage()` was given; the memory may then be used for something else.
   *
   * @throws {SnapshotError} `SYSTEM`
   */
  flush(): void {
    if (this.#queuePageCount === 0) return;
    const { pagesOffset } = this.#block(this.#queueBlock);
    const offset = pagesOffset + this.#queueFirstPage * TARGET_PAGE_BYTES;
    this.#queuePageCount = 0;
    withPath('write', this.path, () => this.#queue.writeAll(this.#file.fd, offset));
  }

  /** The page is zero from now on, whatever was written to it before. */
  zeroPage(block: number, page: number): void {
    const { hasContent, isStale, pageCount } = this.#block(block);
    assert(page >= 0 && page < pageCount);
    if (!hasContent.isSet(page)) return;
    if (this.#isQueued(block, page)) this.flush();
    hasContent.clear(page);
    isStale.set(page);
  }

  /**
   * Reads back what the page is, as an XBZRLE delta needs it.
   *
   * @param into 4096 bytes
   * @throws {SnapshotError} `SYSTEM`
   */
  readPage(block: number, page: number, into: Uint8Array): void {
    assert.equal(into.length, TARGET_PAGE_BYTES);
    const { hasContent, pagesOffset } = this.#block(block);
    if (!hasContent.isSet(page)) {
      into.fill(0);
      return;
    }
    if (this.#isQueued(block, page)) this.flush();
    const offset = pagesOffset + page * TARGET_PAGE_BYTES;
    withPath('read', this.path, () => {
      for (let done = 0; done < into.length; ) {
        const count = readSync(this.#file.fd, into, done, into.length - done, offset + done);
        assert(count > 0, 'a page that was written is in the file');
        done += count;
      }
    });
  }

  /**
   * Completes the file, waits until it is on the disk, and gives it its name. Nothing may be written afterwards.
   *
   * @param deviceSections FULL sections, verbatim
   * @param vmDescription the JSON, if the source gave one
   * @throws {SnapshotError} `EXISTS`, `SYSTEM`; then the file still has to be abandoned
   */
  finish(deviceSections: Uint8Array, vmDescription?: Uint8Array): void {
    this.flush();
    for (const block of this.#blocks) this.#finishBlock(block);
    this.#write(this.#encodeTail(deviceSections, vmDescription), this.#tailOffset);
    this.#write(this.#encodeHead(), 0);
    this.#file.finish();
  }

  /** Gives up: the file is removed, unless it was finished. May be called twice. */
  abandon(): void {
    this.#file.abandon();
  }

  #block(index: number): Block {
    const block = this.#blocks[index];
    assert(block !== undefined, `there is no block ${index}`);
    return block;
  }

  /** Notes that a page has content. */
  #take(index: number, page: number): Block {
    const block = this.#block(index);
    assert(page >= 0 && page < block.pageCount, `there is no page ${page} in ${block.layout.idstr}`);
    block.hasContent.set(page);
    block.isStale.clear(page);
    return block;
  }

  #isQueued(block: number, page: number): boolean {
    const index = page - this.#queueFirstPage;
    return block === this.#queueBlock && index >= 0 && index < this.#queuePageCount;
  }

  /** Entry, bitmap, and holes where older content is. */
  #finishBlock(block: Block): void {
    const entry = new ByteWriter(new Uint8Array(blockEntryBytes(block.layout)));
    writeBlockEntry(entry, block.layout, block);
    this.#write(entry.subarray(), block.entryOffset);
    this.#write(encodeBitmap(block.hasContent), block.bitmapOffset);
    // Where holes cannot be made the old content stays; the bitmap says that the page is zero.
    withPath('write', this.path, () => {
      block.isStale.forEachRun((firstPage, pageCount) => {
        const offset = block.pagesOffset + firstPage * TARGET_PAGE_BYTES;
        punchHole(this.#file.fd, offset, pageCount * TARGET_PAGE_BYTES);
      });
    });
  }

  #encodeHead(): Uint8Array {
    const { machineType, uuid, ramSectionId, blocks } = this.#options;
    const listOffset = this.#blocks[0]?.entryOffset ?? this.#tailOffset;
    const writer = new ByteWriter(new Uint8Array(listOffset));
    writeFileHeader(writer, machineType, [MAPPED_RAM_CAPABILITY], uuid);
    writeSectionStart(writer, SectionType.START, ramSectionId, RAM_IDSTR, RAM_INSTANCE_ID, RAM_VERSION_ID);
    const totalBytes = blocks.reduce((sum, block) => sum + block.lengthBytes, 0);
    writer.u64(totalBytes + RamSaveFlag.MEM_SIZE);
    assert.equal(writer.remaining, 0);
    return writer.subarray();
  }

  #encodeTail(deviceSections: Uint8Array, vmDescription: Uint8Array | undefined): Uint8Array {
    const { ramSectionId } = this.#options;
    const maxBytes = TAIL_FRAME_MAX_BYTES + deviceSections.length + (vmDescription?.length ?? 0);
    const writer = new ByteWriter(new Uint8Array(maxBytes));
    writeRamEos(writer);
    writeSectionFooter(writer, ramSectionId);
    writeSectionContinuation(writer, SectionType.END, ramSectionId);
    writeRamEos(writer);
    writeSectionFooter(writer, ramSectionId);
    writer.bytes(deviceSections);
    writeEof(writer);
    if (vmDescription !== undefined) {
      writer.u8(SectionType.VMDESCRIPTION);
      writer.u32(vmDescription.length);
      writer.bytes(vmDescription);
    }
    return writer.subarray();
  }

  #write(bytes: Uint8Array, offset: number): void {
    withPath('write', this.path, () => {
      for (let done = 0; done < bytes.length; ) {
        done += writeSync(this.#file.fd, bytes, done, bytes.length - done, offset + done);
      }
    });
  }
}

/** `be64 total | MEM_SIZE` */
const TOTAL_BYTES = 8;
const TAIL_FRAME_MAX_BYTES =
  2 * (RAM_EOS_BYTES + SECTION_FOOTER_BYTES) + SECTION_CONTINUATION_BYTES + EOF_BYTES + 1 + 4;

function sectionStartBytes(): number {
  const writer = new ByteWriter(new Uint8Array(SECTION_START_MAX_BYTES));
  writeSectionStart(writer, SectionType.START, 0, RAM_IDSTR, RAM_INSTANCE_ID, RAM_VERSION_ID);
  return writer.position;
}

function placeBlocks(layouts: readonly WireRamBlock[], listOffset: number): [blocks: Block[], end: number] {
  const blocks: Block[] = [];
  let entryOffset = listOffset;
  for (const layout of layouts) {
    assert(layout.lengthBytes > 0 && layout.lengthBytes % TARGET_PAGE_BYTES === 0);
    const { bitmapOffset, pagesOffset, end } = placeBlock(layout, entryOffset);
    const pageCount = layout.lengthBytes / TARGET_PAGE_BYTES;
    const hasContent = new PageBitmap(pageCount);
    const isStale = new PageBitmap(pageCount);
    blocks.push({ layout, entryOffset, bitmapOffset, pagesOffset, pageCount, hasContent, isStale });
    entryOffset = end;
  }
  return [blocks, entryOffset];
}

function encodeBitmap(bitmap: PageBitmap): Uint8Array {
  const bytes = new Uint8Array(mappedRamBitmapBytes(bitmap.pageCount * TARGET_PAGE_BYTES));
  const view = new DataView(bytes.buffer);
  for (const [index, word] of bitmap.words.entries()) view.setInt32(index * 4, word, true);
  return bytes;
}
