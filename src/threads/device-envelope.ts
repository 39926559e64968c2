/**
 * What our threads put around a machine's device state: when the guest stopped, so that the destination can say how long
 * it stood still.
 *
 *   byte  size  type   field
 *   0     8     be64   CLOCK_MONOTONIC of the last guest instruction, nanoseconds
 *   8     8     be64   CLOCK_REALTIME of the same moment, nanoseconds
 *   16    36    ascii  boot id of the host: where it is equal, the monotonic clock is too
 *   52    …            device state
 */
import { readFileSync } from 'node:fs';
import type { GuestDowntime } from '../migration/destination.ts';

const HEADER_BYTES = 52;
const BOOT_ID_BYTES = 36;

const bootId = readFileSync('/proc/sys/kernel/random/boot_id', 'latin1')
  .slice(0, BOOT_ID_BYTES)
  .padEnd(BOOT_ID_BYTES);

export interface StopMoment {
  readonly monotonicNs: bigint;
  readonly wallNs: bigint;
  readonly bootId: string;
}

/** @param stoppedAtNs `monotonicNs()` of a moment in the past */
export function stopMoment(stoppedAtNs: bigint): StopMoment {
  return { monotonicNs: stoppedAtNs, wallNs: wallNsOf(stoppedAtNs), bootId };
}

export function wrapDeviceState(state: Uint8Array, moment: StopMoment): Uint8Array {
  const wrapped = new Uint8Array(HEADER_BYTES + state.length);
  const view = new DataView(wrapped.buffer);
  view.setBigUint64(0, moment.monotonicNs);
  view.setBigUint64(8, moment.wallNs);
  for (let index = 0; index < BOOT_ID_BYTES; index++) wrapped[16 + index] = moment.bootId.charCodeAt(index);
  wrapped.set(state, HEADER_BYTES);
  return wrapped;
}

/** @throws {RangeError} if there is less than a header */
export function unwrapDeviceState(wrapped: Uint8Array): { state: Uint8Array; moment: StopMoment } {
  if (wrapped.length < HEADER_BYTES) {
    throw new RangeError(`Device state must be at least ${HEADER_BYTES} bytes long, got ${wrapped.length}`);
  }
  const view = new DataView(wrapped.buffer, wrapped.byteOffset, wrapped.byteLength);
  const sourceBootId = Buffer.from(wrapped.buffer, wrapped.byteOffset + 16, BOOT_ID_BYTES).toString('latin1');
  return {
    state: wrapped.subarray(HEADER_BYTES),
    moment: { monotonicNs: view.getBigUint64(0), wallNs: view.getBigUint64(8), bootId: sourceBootId },
  };
}

/** How long the guest stood still, from `stopped` at the source to `resumedAtNs` here. */
export function guestDowntime(stopped: StopMoment, resumedAtNs: bigint): GuestDowntime {
  const isExact = stopped.bootId === bootId;
  const ns = isExact ? resumedAtNs - stopped.monotonicNs : wallNsOf(resumedAtNs) - stopped.wallNs;
  return { guestDowntimeUs: Number(ns) / 1000, isExact };
}

function wallNsOf(monotonicNs: bigint): bigint {
  const agoNs = process.hrtime.bigint() - monotonicNs;
  return BigInt(Date.now()) * 1_000_000n - agoNs;
}
