/**
 * The machine contract: what a migration needs of a virtual machine.
 *
 * A machine lives in a thread of its own and owns its memory. The engine reads that memory (source) or fills it
 * (destination) from other threads, by host address; it never asks the machine for a page.
 * The suite in test/contract/machine-contract.ts is passed by every machine.
 */
import type { RamBlock } from '../memory/ram-block.ts';

/** Identifies the device state of a machine as one FULL section of the stream. */
export interface DeviceSection {
  /** Section name, 1 to 255 ASCII bytes. */
  readonly idstr: string;
  readonly instanceId: number;
  /** Version written, and the highest version that can be loaded. */
  readonly versionId: number;
}

export interface Machine {
  /** Name in the stream's CONFIGURATION; peers with another one refuse each other. Includes whatever must be equal. */
  readonly machineType: string;
  readonly ramBlocks: readonly RamBlock[];
  readonly deviceSection: DeviceSection;

  /**
   * Stops the guest.
   *
   * After it resolves no guest instruction runs, no RAM changes, and guest time stands still. May be called when paused.
   *
   * @returns the moment (`monotonicNs()`) at which the last guest instruction had run
   */
  pause(): Promise<bigint>;

  /**
   * Lets the guest run; guest time goes on from where it stood.
   *
   * @returns the moment (`monotonicNs()`) just before the first guest instruction ran
   */
  resume(): Promise<bigint>;

  /** Everything but RAM, as bytes only a machine of the same `machineType` understands. Only while paused. */
  saveDevices(): Promise<Uint8Array>;

  /**
   * Takes on a state made by `saveDevices()`. Only while paused, and must not touch RAM: pages may be missing.
   *
   * @throws {Error} if the state is damaged or of another machine; the machine is then unusable
   */
  loadDevices(state: Uint8Array): Promise<void>;

  /** Ends the machine and frees its memory. May be called twice. */
  close(): Promise<void>;
}

/** CLOCK_MONOTONIC in nanoseconds: equal in all processes of one host, and never set back. */
export function monotonicNs(): bigint {
  return process.hrtime.bigint();
}
