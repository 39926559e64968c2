/**
 * The device state of a machine on the wire: FULL sections, and their description.
 */
import assert from 'node:assert/strict';
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
import { SectionType } from '../wire/sections.ts';
import { encodeVmDescription } from '../wire/vm-description.ts';

/** How a machine's device state is named on the wire. */
export interface DeviceSectionName {
  /** 1 to 255 ASCII bytes. */
  readonly idstr: string;
  readonly instanceId: number;
  readonly versionId: number;
}

/** RAM has the id QEMU usually gives it; any would do, as long as it stays and no device has it. */
export const RAM_SECTION_ID = 2;
const GLOBAL_STATE_SECTION_ID = 3;
const MACHINE_SECTION_ID = 4;

/** A whole message of the stream, and what it is. */
export type StreamMessage =
  | { readonly bytes: Uint8Array; readonly command: string }
  | { readonly bytes: Uint8Array; readonly section: { readonly idstr: string; readonly sectionId: number } };

/** The device state as it goes into a stream. */
export interface DeviceSections {
  /** FULL sections, in their order. */
  readonly messages: readonly StreamMessage[];
  /** What stands behind the EOF of a precopy stream, so that others can decode it: the VM description, or nothing. */
  readonly description: Uint8Array;
}

/**
 * Makes sections of what a machine has saved.
 *
 * @param isRunning whether the guest is to run at the destination, or stays paused as it was
 */
export type DeviceEncoder = (state: Uint8Array, isRunning: boolean) => DeviceSections;

/** The devices of a machine of ours: QEMU's `globalstate` (did the guest run?) and one FULL section. */
export function machineDevices(section: DeviceSectionName): DeviceEncoder {
  return (state, isRunning) => {
    const globalState = {
      sectionId: GLOBAL_STATE_SECTION_ID,
      idstr: GLOBAL_STATE_IDSTR,
      instanceId: 0,
      versionId: GLOBAL_STATE_VERSION_ID,
      body: encodeGlobalState(isRunning ? 'running' : 'paused'),
    };
    const machine = { sectionId: MACHINE_SECTION_ID, ...section, body: encodeLengthPrefixed(state) };
    return {
      messages: [globalState, machine].map((device) => ({
        bytes: writeDeviceSection(device),
        section: { idstr: device.idstr, sectionId: device.sectionId },
      })),
      description: describeMachine(section, state.length),
    };
  };
}

/**
 * Devices of a machine we know nothing of, as FULL sections that were captured; whether its guest runs is in them.
 *
 * @param description the VMDESCRIPTION record that belongs to them, or nothing
 */
export function capturedDevices(description: Uint8Array): DeviceEncoder {
  return (sections) => {
    assert.equal(sections[0], SectionType.FULL);
    const sectionId = new DataView(sections.buffer, sections.byteOffset).getUint32(1);
    return {
      messages: [{ bytes: sections, section: { idstr: 'devices as captured', sectionId } }],
      description,
    };
  };
}

function describeMachine(section: DeviceSectionName, stateBytes: number): Uint8Array {
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
      fields: lengthPrefixedFields(stateBytes),
    },
  ]);
}

export const RUN_COMMAND: StreamMessage = {
  bytes: encodeCommand(MigrationCommand.POSTCOPY_RUN),
  command: 'POSTCOPY_RUN',
};

/**
 * The package that moves the guest: listen for faults, take the device state, run.
 *
 * @param holdsRun false if RUN follows when the destination has answered the last PING in here
 */
export function encodePackage(devices: readonly StreamMessage[], holdsRun: boolean): StreamMessage[] {
  return [
    { bytes: encodeCommand(MigrationCommand.POSTCOPY_LISTEN), command: 'POSTCOPY_LISTEN' },
    ...devices,
    { bytes: encodePing(PingValue.IN_PACKAGE), command: 'PING' },
    { bytes: encodePing(PingValue.PACKAGE_LOADED), command: 'PING' },
    ...(holdsRun ? [RUN_COMMAND] : []),
  ];
}
