/**
 * Device sections: FULL sections whose bodies we write and read.
 *
 *   globalstate    u32 length of the run state with its NUL, then the run state in 100 bytes padded with NULs.
 *                  The destination starts the guest only if it is `running`.
 *   our machines   u32 n, then n bytes that only a machine of the same type understands
 *
 * QEMU's own device bodies say nowhere how long they are; ours do, so that a decoder needs not know the machine.
 * Source of globalstate: QEMU migration/global_state.c.
 */
import assert from 'node:assert/strict';
import { asciiText } from './ascii-text.ts';
import { ByteWriter } from './byte-writer.ts';
import {
  SECTION_FOOTER_BYTES,
  SECTION_START_MAX_BYTES,
  SectionType,
  writeSectionFooter,
  writeSectionStart,
} from './sections.ts';
import { StreamError, type StreamName } from './stream-error.ts';
import type { VmDescriptionField } from './vm-description.ts';

export const GLOBAL_STATE_IDSTR = 'globalstate';
export const GLOBAL_STATE_VERSION_ID = 1;
const RUN_STATE_BYTES = 100;
/** Length of the body of `globalstate` in bytes. */
export const GLOBAL_STATE_BYTES = 4 + RUN_STATE_BYTES;

/** The body of `globalstate` for the VM description. */
export const GLOBAL_STATE_FIELDS: readonly VmDescriptionField[] = [
  { name: 'size', type: 'uint32', sizeBytes: 4 },
  { name: 'runstate', type: 'buffer', sizeBytes: RUN_STATE_BYTES },
];

/** @param runState QMP's RunState, such as `running` or `paused` */
export function encodeGlobalState(runState: string): Uint8Array {
  assert(runState.length >= 1 && runState.length < RUN_STATE_BYTES);
  const body = new Uint8Array(GLOBAL_STATE_BYTES);
  const writer = new ByteWriter(body);
  writer.u32(runState.length + 1);
  writer.ascii(runState);
  return body;
}

/**
 * The run state in a body of `globalstate`.
 *
 * @param at stream byte of the body, for the error
 * @throws {StreamError} `BAD_LENGTH` if the sizes do not fit, `BAD_VALUE` if the name does not end where the size says
 */
export function decodeGlobalState(body: Uint8Array, at = 0, streamName?: StreamName): string {
  if (body.length !== GLOBAL_STATE_BYTES) {
    throw new StreamError(
      'BAD_LENGTH',
      `Cannot read globalstate: length must be ${GLOBAL_STATE_BYTES}, got ${body.length}`,
      at,
      streamName,
    );
  }
  const sizeBytes = new DataView(body.buffer, body.byteOffset, 4).getUint32(0);
  if (sizeBytes < 2 || sizeBytes > RUN_STATE_BYTES) {
    throw new StreamError(
      'BAD_LENGTH',
      `Cannot read globalstate: size must be 2 to ${RUN_STATE_BYTES}, got ${sizeBytes}`,
      at,
      streamName,
    );
  }
  if (body.indexOf(0, 4) !== 4 + sizeBytes - 1) {
    throw new StreamError(
      'BAD_VALUE',
      `Cannot read globalstate: run state must end with a NUL after ${sizeBytes - 1} characters`,
      at + 4,
      streamName,
    );
  }
  return asciiText(body, 4, 4 + sizeBytes - 1);
}

/** Body of a device of ours: its state behind its length. */
export function encodeLengthPrefixed(state: Uint8Array): Uint8Array {
  const body = new Uint8Array(4 + state.length);
  const writer = new ByteWriter(body);
  writer.u32(state.length);
  writer.bytes(state);
  return body;
}

/** What `encodeLengthPrefixed()` makes of `stateBytes` bytes, for the VM description. */
export function lengthPrefixedFields(stateBytes: number): VmDescriptionField[] {
  return [
    { name: 'length', type: 'uint32', sizeBytes: 4 },
    { name: 'state', type: 'buffer', sizeBytes: stateBytes },
  ];
}

/** A whole FULL section, footer included, in memory of its own. */
export function writeDeviceSection(section: {
  readonly sectionId: number;
  readonly idstr: string;
  readonly instanceId: number;
  readonly versionId: number;
  /** From `encodeGlobalState()` or `encodeLengthPrefixed()`. */
  readonly body: Uint8Array;
}): Uint8Array {
  const { sectionId, idstr, instanceId, versionId, body } = section;
  const writer = new ByteWriter(new Uint8Array(SECTION_START_MAX_BYTES + body.length + SECTION_FOOTER_BYTES));
  writeSectionStart(writer, SectionType.FULL, sectionId, idstr, instanceId, versionId);
  writer.bytes(body);
  writeSectionFooter(writer, sectionId);
  return writer.subarray();
}
