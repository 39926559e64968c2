/**
 * The device state of a machine on the wire: QEMU's `globalstate` (did the guest run?) and one FULL section of ours.
 */
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import { encodeCommand, encodePing, MigrationCommand, PingValue } from '../wire/commands.ts';
import {
  encodeGlobalState,
  encodeLengthPrefixed,
  GLOBAL_STATE_FIELDS,
  GLOBAL_STATE_IDSTR,
  GLOBAL_STATE_VERSION_ID,
  lengthPrefixedFields,
  writeDeviceSection,
} from '../wire/device-sections.ts';
import { encodeVmDescription } from '../wire/vm-description.ts';

/** How a machine's device state is named on the wire. */
export interface DeviceSectionName {
  /** 1 to 255 ASCII bytes. */
  readonly idstr: string;
  readonly instanceId: number;
  readonly versionId: number;
}

/** RAM has the id QEMU usually gives it; any would do, as long as it stays. */
export const RAM_SECTION_ID = 2;
const GLOBAL_STATE_SECTION_ID = 3;
const MACHINE_SECTION_ID = 4;

export interface DeviceState {
  readonly section: DeviceSectionName;
  readonly bytes: Uint8Array;
  /** Whether the guest is to run at the destination, or stays paused as it was. */
  readonly isRunning: boolean;
}

/** A whole message of the stream, and what it is. */
export type StreamMessage =
  | { readonly bytes: Uint8Array; readonly command: string }
  | { readonly bytes: Uint8Array; readonly section: { readonly idstr: string; readonly sectionId: number } };

/** The FULL sections of the device state, in their order. */
export function encodeDeviceSections({ section, bytes, isRunning }: DeviceState): StreamMessage[] {
  const globalState = {
    sectionId: GLOBAL_STATE_SECTION_ID,
    idstr: GLOBAL_STATE_IDSTR,
    instanceId: 0,
    versionId: GLOBAL_STATE_VERSION_ID,
    body: encodeGlobalState(isRunning ? 'running' : 'paused'),
  };
  const machine = { sectionId: MACHINE_SECTION_ID, ...section, body: encodeLengthPrefixed(bytes) };
  return [globalState, machine].map((device) => ({
    bytes: writeDeviceSection(device),
    section: { idstr: device.idstr, sectionId: device.sectionId },
  }));
}

/** What stands behind the EOF of a precopy stream, so that others can decode it: the VM description. */
export function encodeStateDescription({ section, bytes }: DeviceState): Uint8Array {
  return encodeVmDescription(TARGET_PAGE_BYTES, [
    {
      name: GLOBAL_STATE_IDSTR,
      instanceId: 0,
      version: GLOBAL_STATE_VERSION_ID,
      vmsdName: GLOBAL_STATE_IDSTR,
      fields: GLOBAL_STATE_FIELDS,
    },
    {
      name: section.idstr,
      instanceId: section.instanceId,
      version: section.versionId,
      vmsdName: section.idstr,
      fields: lengthPrefixedFields(bytes.length),
    },
  ]);
}

/** The package that moves the guest: listen for faults, take the device state, run. */
export function encodePackage(state: DeviceState): StreamMessage[] {
  return [
    { bytes: encodeCommand(MigrationCommand.POSTCOPY_LISTEN), command: 'POSTCOPY_LISTEN' },
    ...encodeDeviceSections(state),
    { bytes: encodePing(PingValue.IN_PACKAGE), command: 'PING' },
    { bytes: encodeCommand(MigrationCommand.POSTCOPY_RUN), command: 'POSTCOPY_RUN' },
  ];
}
