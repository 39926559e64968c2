/**
 * Tells device sections apart by the VM description of their stream.
 *
 * The bodies of FULL sections say nowhere how long they are. The description lists them in the order of the stream, each
 * with the fields that were written and their sizes, so that
 *
 *   body         = the fields, and for each subsection 05, cstr name, be32 version, its body
 *   a field      = `size` bytes, `array_len` times if that is given; of a struct `size` is the whole
 *
 * Names and ids of the sections are held against it, and every footer: a description that does not fit is found out.
 * Source: QEMU migration/vmstate.c, vmstate_save_state_v(); scripts/analyze-migration.py.
 */
import { asciiText, hex, isPlainName } from './ascii-text.ts';
import { SECTION_FOOTER_BYTES, SectionType } from './sections.ts';
import { StreamError, type StreamErrorCode } from './stream-error.ts';

/** A device as a VM description tells of it. */
export interface DescribedDevice {
  readonly idstr: string;
  readonly instanceId: number;
  /** Length of the body of its section. */
  readonly bodyBytes: number;
}

/** A FULL section. */
export interface DeviceSection {
  readonly sectionId: number;
  readonly idstr: string;
  readonly instanceId: number;
  readonly versionId: number;
  readonly bodyBytes: number;
  /** Stream byte of the section; its body begins at `bodyAt`. */
  readonly at: number;
  readonly bodyAt: number;
}

/** Subsections of subsections: QEMU's own are not nested deeper than this by far. */
const MAX_DEPTH = 64;

/**
 * What a description says of each device, in the order of the stream.
 *
 * @param json what VMDESCRIPTION holds
 * @param at stream byte of it, for the error
 * @throws {StreamError} `BAD_VALUE` if it is not JSON, or has not the form of a description
 */
export function decodeVmDescription(json: Uint8Array, at = 0): DescribedDevice[] {
  const fail = (what: string): never => {
    throw new StreamError('BAD_VALUE', `Cannot read the VM description: ${what}`, at);
  };
  let description: unknown;
  try {
    description = JSON.parse(Buffer.from(json.buffer, json.byteOffset, json.byteLength).toString('utf8'));
  } catch {
    fail('it is not JSON');
  }
  const devices = property(description, 'devices');
  if (!Array.isArray(devices)) return fail('"devices" must be a list');
  return devices.map((device: unknown, index) => {
    const idstr = property(device, 'name');
    const instanceId = property(device, 'instance_id');
    if (typeof idstr !== 'string' || !isPlainName(idstr)) {
      return fail(`name of device ${index} must be a string of 1 to 255 printable characters`);
    }
    if (!isCount(instanceId)) return fail(`instance_id of device ${index} must be a number`);
    const bodyBytes = lengthOf(device, 0);
    if (typeof bodyBytes === 'string') return fail(`${bodyBytes}, in device ${index}`);
    return { idstr, instanceId, bodyBytes };
  });
}

/**
 * The device sections in `sections`, which must be exactly those that are described.
 *
 * @param at stream byte of the first, for the result and for the error
 * @throws {StreamError} `BAD_SECTION`, `BAD_FOOTER`, `BAD_LENGTH`
 */
export function walkDeviceSections(
  sections: Uint8Array,
  described: readonly DescribedDevice[],
  at = 0,
): DeviceSection[] {
  const view = new DataView(sections.buffer, sections.byteOffset, sections.byteLength);
  let position = 0;
  const fail = (code: StreamErrorCode, what: string): never => {
    throw new StreamError(code, what, at + position);
  };
  const walked = described.map((device): DeviceSection => {
    const { idstr, instanceId, bodyBytes } = device;
    const leftBytes = sections.length - position;
    const name = `device section '${idstr}' ${instanceId}`;
    if (leftBytes < 6) return fail('BAD_LENGTH', `There is no ${name}, which the description tells of`);
    const type = sections[position];
    if (type !== SectionType.FULL) {
      return fail('BAD_SECTION', `Type of ${name} must be ${hex(SectionType.FULL)}, got ${hex(type!)}`);
    }
    const nameEnd = position + 6 + sections[position + 5]!;
    const bodyPosition = nameEnd + 8;
    const footerPosition = bodyPosition + bodyBytes;
    if (footerPosition + SECTION_FOOTER_BYTES > sections.length) {
      return fail('BAD_LENGTH', `${leftBytes} bytes are too few for ${name} as the description tells it`);
    }
    const sectionId = view.getUint32(position + 1);
    const gotIdstr = asciiText(sections, position + 6, nameEnd);
    const gotInstanceId = view.getUint32(nameEnd);
    if (gotIdstr !== idstr || gotInstanceId !== instanceId) {
      return fail('BAD_SECTION', `A ${name} is described, and '${gotIdstr}' ${gotInstanceId} is there`);
    }
    const isFooter =
      sections[footerPosition] === SectionType.FOOTER && view.getUint32(footerPosition + 1) === sectionId;
    if (!isFooter) {
      position = footerPosition;
      return fail('BAD_FOOTER', `Footer of ${name} missing, after the ${bodyBytes} bytes of its body`);
    }
    const section = {
      sectionId,
      idstr,
      instanceId,
      versionId: view.getUint32(nameEnd + 4),
      bodyBytes,
      at: at + position,
      bodyAt: at + bodyPosition,
    };
    position = footerPosition + SECTION_FOOTER_BYTES;
    return section;
  });
  if (position !== sections.length) {
    fail('BAD_LENGTH', `${sections.length - position} bytes follow the device sections that are described`);
  }
  return walked;
}

/** Length of the body that an object with `fields` and `subsections` tells of, or what is wrong with it. */
function lengthOf(object: unknown, depth: number): number | string {
  if (depth > MAX_DEPTH) return `subsections must not be nested deeper than ${MAX_DEPTH}`;
  const fields = property(object, 'fields') ?? [];
  const subsections = property(object, 'subsections') ?? [];
  if (!Array.isArray(fields)) return '"fields" must be a list';
  if (!Array.isArray(subsections)) return '"subsections" must be a list';
  let lengthBytes = 0;
  for (const field of fields) {
    const sizeBytes = property(field, 'size');
    const count = property(field, 'array_len') ?? 1;
    if (!isCount(sizeBytes) || !isCount(count)) return 'size and array_len of a field must be numbers';
    lengthBytes += sizeBytes * count;
  }
  for (const subsection of subsections) {
    const name = property(subsection, 'vmsd_name');
    if (typeof name !== 'string') return 'vmsd_name of a subsection must be a string';
    const bodyBytes = lengthOf(subsection, depth + 1);
    if (typeof bodyBytes === 'string') return bodyBytes;
    lengthBytes += 1 + 1 + name.length + 4 + bodyBytes;
  }
  return Number.isSafeInteger(lengthBytes) ? lengthBytes : 'lengths must be below 2^53';
}

function property(object: unknown, name: string): unknown {
  return typeof object === 'object' && object !== null
    ? (object as Record<string, unknown>)[name]
    : undefined;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
