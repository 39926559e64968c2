/**
 * Sections: what the migration stream is made of, apart from their bodies.
 *
 *   file header    u32 magic "QEVM", u32 version 3
 *   CONFIGURATION  u8 0x07, u32 name length, name of the machine type, subsections
 *   START, FULL    u8 type, u32 section id, cstr idstr, u32 instance id, u32 version, body, footer
 *   PART, END      u8 type, u32 section id, body, footer
 *   footer         u8 0x7e, u32 section id
 *   COMMAND        see commands.ts
 *   EOF            u8 0x00, after which a VMDESCRIPTION may follow (vm-description.ts)
 *
 * A cstr is its length as u8 (1 to 255) and that many ASCII bytes. All numbers are big-endian.
 * Source: QEMU migration/savevm.c; docs/devel/migration/main.rst.
 */
import assert from 'node:assert/strict';
import type { ByteWriter } from './byte-writer.ts';

export const FILE_MAGIC = 0x5145564d;
export const FILE_VERSION = 3;

export const SectionType = {
  EOF: 0x00,
  START: 0x01,
  PART: 0x02,
  END: 0x03,
  FULL: 0x04,
  SUBSECTION: 0x05,
  VMDESCRIPTION: 0x06,
  CONFIGURATION: 0x07,
  COMMAND: 0x08,
  FOOTER: 0x7e,
} as const;

/** The section types that have a body and a footer, by the names the decoder gives them. */
export type BodySectionType = 'start' | 'part' | 'end' | 'full';

export const RAM_IDSTR = 'ram';
export const RAM_INSTANCE_ID = 0;
/** The only version of the RAM section that is written and read. */
export const RAM_VERSION_ID = 4;

export const MAX_CSTR_BYTES = 1 + 255;
/** Header of a PART or END section. */
export const SECTION_CONTINUATION_BYTES = 5;
export const SECTION_FOOTER_BYTES = 5;
/** The longest header of a START or FULL section. */
export const SECTION_START_MAX_BYTES = 1 + 4 + MAX_CSTR_BYTES + 4 + 4;
export const EOF_BYTES = 1;

/** Length of what `writeFileHeader()` writes, in bytes. */
export function fileHeaderBytes(
  machineType: string,
  capabilities: readonly string[] = [],
  uuid?: Uint8Array,
): number {
  let lengthBytes = 4 + 4 + 1 + 4 + machineType.length;
  if (capabilities.length > 0) {
    lengthBytes += 1 + 1 + CAPABILITIES_SUBSECTION.length + 4 + 4;
    for (const capability of capabilities) lengthBytes += 1 + capability.length;
  }
  if (uuid !== undefined) lengthBytes += 1 + 1 + UUID_SUBSECTION.length + 4 + UUID_BYTES;
  return lengthBytes;
}

/**
 * Magic, version, and CONFIGURATION: what a stream begins with.
 *
 * @param machineType versioned name, ASCII, never an alias: the receiver refuses any but its own
 * @param capabilities those that both sides must have equal (`x-ignore-shared`, `mapped-ram`); usually none
 * @param uuid of the machine, 16 bytes; a receiver that has another one refuses
 */
export function writeFileHeader(
  writer: ByteWriter,
  machineType: string,
  capabilities: readonly string[] = [],
  uuid?: Uint8Array,
): void {
  writer.u32(FILE_MAGIC);
  writer.u32(FILE_VERSION);
  writer.u8(SectionType.CONFIGURATION);
  writer.u32(machineType.length);
  writer.ascii(machineType);
  if (capabilities.length > 0) {
    writer.u8(SectionType.SUBSECTION);
    writer.cstr(CAPABILITIES_SUBSECTION);
    writer.u32(1);
    writer.u32(capabilities.length);
    for (const capability of capabilities) writer.cstr(capability);
  }
  if (uuid === undefined) return;
  assert.equal(uuid.length, UUID_BYTES);
  writer.u8(SectionType.SUBSECTION);
  writer.cstr(UUID_SUBSECTION);
  writer.u32(1);
  writer.bytes(uuid);
}

/** Subsections of CONFIGURATION, in the order they must come in; all are of version 1. */
export const CAPABILITIES_SUBSECTION = 'configuration/capabilities';
export const TARGET_PAGE_BITS_SUBSECTION = 'configuration/target-page-bits';
export const UUID_SUBSECTION = 'configuration/uuid';
export const UUID_BYTES = 16;

/** With it each block of MEM_SIZE has its guest physical address, and shared blocks are not sent. */
export const IGNORE_SHARED_CAPABILITY = 'x-ignore-shared';
/** With it the pages of each block stand behind it in MEM_SIZE, at a place of their own (mapped-ram.ts). */
export const MAPPED_RAM_CAPABILITY = 'mapped-ram';
/** The capabilities that can be named in CONFIGURATION. */
export const VALIDATED_CAPABILITIES: readonly string[] = [IGNORE_SHARED_CAPABILITY, MAPPED_RAM_CAPABILITY];

/** Header of a START or FULL section: binds `sectionId` to the device for the rest of the stream. */
export function writeSectionStart(
  writer: ByteWriter,
  type: typeof SectionType.START | typeof SectionType.FULL,
  sectionId: number,
  idstr: string,
  instanceId: number,
  versionId: number,
): void {
  writer.u8(type);
  writer.u32(sectionId);
  writer.cstr(idstr);
  writer.u32(instanceId);
  writer.u32(versionId);
}

/** Header of a PART or END section. */
export function writeSectionContinuation(
  writer: ByteWriter,
  type: typeof SectionType.PART | typeof SectionType.END,
  sectionId: number,
): void {
  writer.u8(type);
  writer.u32(sectionId);
}

export function writeSectionFooter(writer: ByteWriter, sectionId: number): void {
  writer.u8(SectionType.FOOTER);
  writer.u32(sectionId);
}

export function writeEof(writer: ByteWriter): void {
  writer.u8(SectionType.EOF);
}
