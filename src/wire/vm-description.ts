/**
 * VMDESCRIPTION: JSON after the EOF of a precopy stream that tells tools how the device sections are laid out.
 *
 *   byte  size  type   field
 *   0     1     u8     0x06
 *   1     4     u32    length of the JSON in bytes
 *   5     n     ascii  JSON, no terminator
 *
 * No receiver needs it. QEMU's scripts/analyze-migration.py does, and asks more than the format says: it finds the JSON by
 * the last NUL byte of the file and the first `{` after it, so neither may occur where it is not meant.
 * Source: QEMU migration/savevm.c, qemu_savevm_state_complete_precopy_non_iterable(); migration/vmstate.c.
 */
import { ByteWriter } from './byte-writer.ts';
import { SectionType } from './sections.ts';

export interface VmDescriptionField {
  readonly name: string;
  /** QEMU's name of the type: `uint32`, `buffer`, … */
  readonly type: string;
  /** Size in bytes of the field, or of each element when `arrayLength` is given. */
  readonly sizeBytes: number;
  readonly arrayLength?: number;
}

/** One FULL section. The sizes of its fields add up to the length of its body. */
export interface VmDescriptionDevice {
  /** The idstr of the section. */
  readonly name: string;
  readonly instanceId: number;
  readonly version: number;
  readonly vmsdName?: string;
  readonly fields: readonly VmDescriptionField[];
}

/** The whole record, for the FULL sections of the stream in their order. */
export function encodeVmDescription(
  pageSizeBytes: number,
  devices: readonly VmDescriptionDevice[],
): Uint8Array {
  let json = JSON.stringify({ page_size: pageSizeBytes, devices: devices.map(describeDevice) });
  while (hasBraceByte(json.length)) json += ' ';
  return encodeDescriptionRecord(new TextEncoder().encode(json));
}

/** The whole record around a description that another source has made. */
export function encodeDescriptionRecord(json: Uint8Array): Uint8Array {
  const record = new Uint8Array(1 + 4 + json.length);
  const writer = new ByteWriter(record);
  writer.u8(SectionType.VMDESCRIPTION);
  writer.u32(json.length);
  writer.bytes(json);
  return record;
}

function describeDevice(device: VmDescriptionDevice): object {
  return {
    name: device.name,
    instance_id: device.instanceId,
    ...(device.vmsdName === undefined ? {} : { vmsd_name: device.vmsdName }),
    version: device.version,
    fields: device.fields.map((field) => ({
      name: field.name,
      type: field.type,
      ...(field.arrayLength === undefined ? {} : { array_len: field.arrayLength }),
      size: field.sizeBytes,
    })),
  };
}

/** Whether a byte of the length reads as `{`, which analyze-migration.py would take for the start of the JSON. */
function hasBraceByte(lengthBytes: number): boolean {
  return [0, 8, 16, 24].some((shift) => ((lengthBytes >> shift) & 0xff) === 0x7b);
}
