/**
 * Files for the tests of this folder: a machine of two blocks, with the bytes of its stream put together piece by piece.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { ByteWriter } from '../wire/byte-writer.ts';
import { writeDeviceSection } from '../wire/device-sections.ts';
import { concatenate, written } from '../wire/example-stream.ts';
import {
  RamSaveFlag,
  TARGET_PAGE_BYTES,
  type WireRamBlock,
  writeMemSize,
  writePageHeader,
  writeRamEos,
  writeZeroPage,
} from '../wire/ram-record.ts';
import {
  RAM_IDSTR,
  RAM_VERSION_ID,
  SectionType,
  writeEof,
  writeFileHeader,
  writeSectionContinuation,
  writeSectionFooter,
  writeSectionStart,
} from '../wire/sections.ts';
import { encodeVmDescription } from '../wire/vm-description.ts';
import { SnapshotWriter } from './snapshot-writer.ts';

export const MACHINE_TYPE = 'pc-1';
export const RAM_SECTION_ID = 2;
export const BLOCKS: readonly WireRamBlock[] = [
  { idstr: 'pc.ram', lengthBytes: 80 * TARGET_PAGE_BYTES, pageSizeBytes: TARGET_PAGE_BYTES },
  { idstr: 'rom', lengthBytes: 3 * TARGET_PAGE_BYTES, pageSizeBytes: TARGET_PAGE_BYTES },
];

const DEVICE_BODY = Uint8Array.of(1, 0, 0x7e, 0, 6, 0);
export const DEVICE_SECTIONS = writeDeviceSection({
  sectionId: 7,
  idstr: 'dev',
  instanceId: 0,
  versionId: 1,
  body: DEVICE_BODY,
});
/** The JSON alone, without what goes before it on the wire. */
export const VM_DESCRIPTION = encodeVmDescription(TARGET_PAGE_BYTES, [
  {
    name: 'dev',
    instanceId: 0,
    version: 1,
    fields: [{ name: 'data', type: 'buffer', sizeBytes: DEVICE_BODY.length }],
  },
]).subarray(5);

export const pageOf = (fill: number): Uint8Array => new Uint8Array(TARGET_PAGE_BYTES).fill(fill);

/** A record: [block, page, fill of the content, or 0 for a zero page]. */
export type Write = readonly [block: number, page: number, fill: number];

/** The records of some pages, each with the name of its block. */
export function records(writes: readonly Write[]): Uint8Array {
  const parts = writes.map(([block, page, fill]) =>
    written((writer) => {
      const { idstr } = BLOCKS[block] as WireRamBlock;
      const offset = page * TARGET_PAGE_BYTES;
      if (fill === 0) return writeZeroPage(writer, offset, idstr);
      writePageHeader(writer, offset, RamSaveFlag.PAGE, idstr);
      writer.bytes(pageOf(fill));
    }),
  );
  return concatenate(...parts);
}

export const header = (...capabilities: string[]): Uint8Array =>
  written((writer) => writeFileHeader(writer, MACHINE_TYPE, capabilities));

/** START of RAM, up to and with its footer. */
export const ramStart = section((writer) => {
  writeSectionStart(writer, SectionType.START, RAM_SECTION_ID, RAM_IDSTR, 0, RAM_VERSION_ID);
  writeMemSize(writer, BLOCKS, { withHostPageSize: false });
});

export function ramPart(body: Uint8Array): Uint8Array {
  const begin = written((writer) => writeSectionContinuation(writer, SectionType.PART, RAM_SECTION_ID));
  return concatenate(begin, body, ramEosAndFooter());
}

export function ramEnd(body: Uint8Array = new Uint8Array()): Uint8Array {
  const begin = written((writer) => writeSectionContinuation(writer, SectionType.END, RAM_SECTION_ID));
  return concatenate(begin, body, ramEosAndFooter());
}

export const tail = concatenate(
  DEVICE_SECTIONS,
  written(writeEof),
  written((writer) => {
    writer.u8(SectionType.VMDESCRIPTION);
    writer.u32(VM_DESCRIPTION.length);
    writer.bytes(VM_DESCRIPTION);
  }),
);

/** A whole stream, in which the last of the pages come when the machine stands still. */
export function streamOf(...rounds: readonly (readonly Write[])[]): Uint8Array {
  const parts = rounds.slice(0, -1).map((writes) => ramPart(records(writes)));
  return concatenate(header(), ramStart, ...parts, ramEnd(records(rounds.at(-1) ?? [])), tail);
}

/** Writes a snapshot of some pages, one after the other. */
export function writeSnapshot(path: string, writes: readonly Write[]): void {
  const writer = new SnapshotWriter({
    path,
    machineType: MACHINE_TYPE,
    ramSectionId: RAM_SECTION_ID,
    blocks: BLOCKS,
    overwrite: true,
  });
  for (const [block, page, fill] of writes) {
    if (fill === 0) writer.zeroPage(block, page);
    else writer.writePage(block, page, pageOf(fill));
  }
  writer.finish(DEVICE_SECTIONS, VM_DESCRIPTION);
}

/** What the pages are after these writes: [block, page, fill], those that are zero left out. */
export function contentAfter(writes: readonly Write[]): Write[] {
  const content = new Map<string, Write>();
  for (const write of writes) {
    const [block, page, fill] = write;
    if (fill === 0) content.delete(`${block}.${page}`);
    else content.set(`${block}.${page}`, write);
  }
  return [...content.values()].sort((a, b) => a[0] - b[0] || a[1] - b[1]);
}

export function folderOf(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'snapshot-'));
  t.after(() => rmSync(folder, { recursive: true }));
  return folder;
}

export function fileOf(t: TestContext, bytes: Uint8Array): string {
  const path = join(folderOf(t), 'file');
  writeFileSync(path, bytes);
  return path;
}

function section(write: (writer: ByteWriter) => void): Uint8Array {
  return concatenate(written(write), ramEosAndFooter());
}

function ramEosAndFooter(): Uint8Array {
  return written((writer) => {
    writeRamEos(writer);
    writeSectionFooter(writer, RAM_SECTION_ID);
  });
}
