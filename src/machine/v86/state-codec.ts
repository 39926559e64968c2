/**
 * Bytes of the device state: a tree of plain values and typed arrays, with the zeros of the arrays left out.
 *
 *   byte  size  field
 *   0     4     magic "V86D"
 *   4     4     format version, 1
 *   8     8     guest time in milliseconds (f64)
 *   16    8     guest epoch in milliseconds since 1970 (f64)
 *   24    4     length of the tree in bytes
 *   28    4     length of the array bytes
 *   32    32    SHA-256 of everything but this field
 *   64    n     the tree, JSON: a typed array is {"a": type, "n": length in bytes, "r": [start, length, ...]}, where
 *               "r" lists the runs that are not zero; a number JSON does not know is {"f": its name}
 *   64+n  m     the bytes of all runs, in the order of the tree
 *
 * All numbers are little-endian, and so are the arrays: x86 and v86 are too. What a peer sends is checked against the
 * limits here and against the machine's own tree (state-shape.ts) before any of it is used.
 */
import { createHash } from 'node:crypto';

export const TYPED_ARRAYS = {
  Uint8Array,
  Int8Array,
  Uint16Array,
  Int16Array,
  Uint32Array,
  Int32Array,
  Float32Array,
  Float64Array,
} as const;

export type TypedArrayName = keyof typeof TYPED_ARRAYS;
export type StateArray = InstanceType<(typeof TYPED_ARRAYS)[TypedArrayName]>;
export type StateValue = number | boolean | string | null | StateArray | StateValue[];

export interface DeviceState {
  readonly guestNowMs: number;
  readonly guestEpochMs: number;
  readonly tree: StateValue;
}

/** A device state cannot be loaded; the text says why. */
export class DeviceStateError extends RangeError {
  override readonly name = 'DeviceStateError';
}

/** Limit of one state, in bytes as sent and again as arrays after it is unpacked. */
export const MAX_STATE_BYTES = 256 * 1024 * 1024;

const MAGIC = 0x44363856; // "V86D"
const FORMAT_VERSION = 1;
const HEADER_BYTES = 64;
const CHECKSUM_AT = 32;
const CHECKSUM_BYTES = 32;
/** Runs are cut at blocks of this size: shorter gaps of zeros are sent, being cheaper than another run. */
const RUN_BYTES = 64;

export function encodeDeviceState(state: DeviceState): Uint8Array {
  const runs: Uint8Array[] = [];
  const tree = Buffer.from(JSON.stringify(toJson(state.tree, runs)));
  const arrayBytes = runs.reduce((sum, run) => sum + run.length, 0);

  const bytes = new Uint8Array(HEADER_BYTES + tree.length + arrayBytes);
  const header = new DataView(bytes.buffer);
  header.setUint32(0, MAGIC, true);
  header.setUint32(4, FORMAT_VERSION, true);
  header.setFloat64(8, state.guestNowMs, true);
  header.setFloat64(16, state.guestEpochMs, true);
  header.setUint32(24, tree.length, true);
  header.setUint32(28, arrayBytes, true);
  bytes.set(tree, HEADER_BYTES);
  let at = HEADER_BYTES + tree.length;
  for (const run of runs) {
    bytes.set(run, at);
    at += run.length;
  }
  bytes.set(checksumOf(bytes), CHECKSUM_AT);
  return bytes;
}

/** @throws {DeviceStateError} if the bytes are damaged, of another format, or too long */
export function decodeDeviceState(bytes: Uint8Array): DeviceState {
  if (bytes.length < HEADER_BYTES || bytes.length > MAX_STATE_BYTES) {
    throw refused(`must have ${HEADER_BYTES} to ${MAX_STATE_BYTES} bytes, got ${bytes.length}`);
  }
  const header = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const magic = header.getUint32(0, true);
  if (magic !== MAGIC) throw refused(`magic must be 0x${MAGIC.toString(16)}, got 0x${magic.toString(16)}`);
  const version = header.getUint32(4, true);
  if (version !== FORMAT_VERSION) throw refused(`format version must be ${FORMAT_VERSION}, got ${version}`);

  const treeBytes = header.getUint32(24, true);
  const arrayBytes = header.getUint32(28, true);
  if (HEADER_BYTES + treeBytes + arrayBytes !== bytes.length) {
    throw refused(`its parts have ${HEADER_BYTES + treeBytes + arrayBytes} bytes, got ${bytes.length}`);
  }
  if (Buffer.compare(checksumOf(bytes), bytes.subarray(CHECKSUM_AT, CHECKSUM_AT + CHECKSUM_BYTES)) !== 0) {
    throw refused('checksum does not match');
  }
  const guestNowMs = header.getFloat64(8, true);
  const guestEpochMs = header.getFloat64(16, true);
  if (!(guestNowMs >= 0 && guestNowMs < 1e12) || !(Math.abs(guestEpochMs) < 8.64e15)) {
    throw refused(`guest time ${guestNowMs} ms since ${guestEpochMs} is out of range`);
  }

  const source = { bytes: bytes.subarray(HEADER_BYTES + treeBytes), used: 0, allocatedBytes: 0 };
  const tree = fromJson(parse(bytes.subarray(HEADER_BYTES, HEADER_BYTES + treeBytes)), source, 0);
  if (source.used !== arrayBytes) throw refused(`${arrayBytes - source.used} array bytes belong to no array`);
  return { guestNowMs, guestEpochMs, tree };
}

function toJson(value: StateValue, runs: Uint8Array[]): unknown {
  if (typeof value === 'number' && !Number.isFinite(value)) return { f: String(value) };
  if (typeof value !== 'object' || value === null) return value;
  if (Array.isArray(value)) return value.map((item) => toJson(item, runs));

  const bytes = new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  const bounds: number[] = [];
  for (const [start, length] of runsOf(bytes)) {
    bounds.push(start, length);
    runs.push(bytes.subarray(start, start + length));
  }
  return { a: value.constructor.name, n: bytes.length, r: bounds };
}

/** Start and length of each run of blocks that are not all zero. */
function* runsOf(bytes: Uint8Array): Generator<[number, number]> {
  let start = -1;
  for (let at = 0; at < bytes.length; at += RUN_BYTES) {
    const isZero = isBlockZero(bytes, at);
    if (!isZero && start === -1) start = at;
    if (isZero && start !== -1) {
      yield [start, at - start];
      start = -1;
    }
  }
  if (start !== -1) yield [start, bytes.length - start];
}

function isBlockZero(bytes: Uint8Array, at: number): boolean {
  const end = Math.min(at + RUN_BYTES, bytes.length);
  for (let index = at; index < end; index++) if (bytes[index] !== 0) return false;
  return true;
}

interface ArraySource {
  readonly bytes: Uint8Array;
  used: number;
  allocatedBytes: number;
}

/** A tree of devices is shallow; a deeper one is an attempt on the stack. */
const MAX_DEPTH = 16;

function fromJson(value: unknown, source: ArraySource, depth: number): StateValue {
  if (depth > MAX_DEPTH) throw refused(`it is nested deeper than ${MAX_DEPTH}`);
  if (value === null || typeof value !== 'object') return value as StateValue;
  if (Array.isArray(value)) return value.map((item) => fromJson(item, source, depth + 1));

  const { a: name, n: lengthBytes, r: bounds, f: number } = value as Record<string, unknown>;
  if (number !== undefined) return numberOf(number);
  if (typeof name !== 'string' || !Object.hasOwn(TYPED_ARRAYS, name))
    throw refused('it has an unknown array');
  const TypedArray = TYPED_ARRAYS[name as TypedArrayName];
  if (!isSize(lengthBytes) || lengthBytes % TypedArray.BYTES_PER_ELEMENT !== 0 || !Array.isArray(bounds)) {
    throw refused(`it has a ${name} of ${textOf(lengthBytes)} bytes`);
  }
  source.allocatedBytes += lengthBytes;
  if (source.allocatedBytes > MAX_STATE_BYTES) throw refused(`its arrays exceed ${MAX_STATE_BYTES} bytes`);

  const bytes = new Uint8Array(lengthBytes);
  for (let index = 0; index < bounds.length; index += 2) {
    const start: unknown = bounds[index];
    const length: unknown = bounds[index + 1];
    if (!isSize(start) || !isSize(length) || start + length > lengthBytes) {
      throw refused(
        `a run of ${textOf(length)} bytes at ${textOf(start)} is outside its array of ${lengthBytes} bytes`,
      );
    }
    if (source.used + length > source.bytes.length) throw refused('its arrays are cut short');
    bytes.set(source.bytes.subarray(source.used, source.used + length), start);
    source.used += length;
  }
  return new TypedArray(bytes.buffer);
}

function numberOf(name: unknown): number {
  if (name !== 'Infinity' && name !== '-Infinity' && name !== 'NaN')
    throw refused('it has an unknown number');
  return Number(name);
}

function parse(tree: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(tree));
  } catch (cause) {
    throw refused('its tree is not JSON', cause);
  }
}

function checksumOf(bytes: Uint8Array): Uint8Array {
  return createHash('sha256')
    .update(bytes.subarray(0, CHECKSUM_AT))
    .update(bytes.subarray(CHECKSUM_AT + CHECKSUM_BYTES))
    .digest();
}

/** For a text: what a peer has put there may be anything, and long. */
function textOf(value: unknown): string {
  return typeof value === 'number' ? String(value) : typeof value;
}

const isSize = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
const refused = (why: string, cause?: unknown): DeviceStateError =>
  new DeviceStateError(`Cannot load device state: ${why}`, cause === undefined ? {} : { cause });
