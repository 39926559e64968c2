/**
 * Commands: what the source tells the destination between sections.
 *
 *   byte  size  type   field
 *   0     1     u8     0x08
 *   1     2     u16    MigrationCommand
 *   3     2     u16    length of the payload
 *   5     n            payload
 *
 *   PING                  u32 value, to be answered by PONG
 *   POSTCOPY_ADVISE       u64 page size summary (the host page sizes of all blocks ORed), u64 target page size;
 *                         or nothing, when only dirty bitmaps are postcopied
 *   POSTCOPY_RAM_DISCARD  u8 0, cstr block, u8 0, then pairs of u64 start, u64 length
 *   PACKAGED              u32 n; a stream of n bytes follows the command, not counted in its length
 *   RECV_BITMAP           cstr block
 *
 * Source: QEMU migration/savevm.c, mig_cmd_args.
 */
import assert from 'node:assert/strict';
import { asciiText, hex } from './ascii-text.ts';
import { ByteWriter } from './byte-writer.ts';
import { SectionType } from './sections.ts';
import { StreamError, type StreamErrorCode, type StreamName } from './stream-error.ts';

export const MigrationCommand = {
  OPEN_RETURN_PATH: 1,
  PING: 2,
  POSTCOPY_ADVISE: 3,
  POSTCOPY_LISTEN: 4,
  POSTCOPY_RUN: 5,
  POSTCOPY_RAM_DISCARD: 6,
  PACKAGED: 7,
  ENABLE_COLO: 8,
  POSTCOPY_RESUME: 9,
  RECV_BITMAP: 10,
  SWITCHOVER_START: 11,
} as const;

export type MigrationCommand = (typeof MigrationCommand)[keyof typeof MigrationCommand];

/** Every command: its name, and the length of its payload in bytes. */
export const COMMANDS = {
  [MigrationCommand.OPEN_RETURN_PATH]: { name: 'OPEN_RETURN_PATH', payloadBytes: 0 },
  [MigrationCommand.PING]: { name: 'PING', payloadBytes: 4 },
  [MigrationCommand.POSTCOPY_ADVISE]: { name: 'POSTCOPY_ADVISE', payloadBytes: 'variable' },
  [MigrationCommand.POSTCOPY_LISTEN]: { name: 'POSTCOPY_LISTEN', payloadBytes: 0 },
  [MigrationCommand.POSTCOPY_RUN]: { name: 'POSTCOPY_RUN', payloadBytes: 0 },
  [MigrationCommand.POSTCOPY_RAM_DISCARD]: { name: 'POSTCOPY_RAM_DISCARD', payloadBytes: 'variable' },
  [MigrationCommand.PACKAGED]: { name: 'PACKAGED', payloadBytes: 4 },
  [MigrationCommand.ENABLE_COLO]: { name: 'ENABLE_COLO', payloadBytes: 0 },
  [MigrationCommand.POSTCOPY_RESUME]: { name: 'POSTCOPY_RESUME', payloadBytes: 0 },
  [MigrationCommand.RECV_BITMAP]: { name: 'RECV_BITMAP', payloadBytes: 'variable' },
  [MigrationCommand.SWITCHOVER_START]: { name: 'SWITCHOVER_START', payloadBytes: 0 },
} as const satisfies Record<MigrationCommand, { name: string; payloadBytes: number | 'variable' }>;

export const COMMAND_HEADER_BYTES = 5;

/** PING values by the place QEMU sends them from. */
export const PingValue = {
  RETURN_PATH_OPENED: 1,
  DISCARDS_SENT: 2,
  IN_PACKAGE: 3,
  PACKAGE_SENT: 4,
  /** QEMU 10.2 and later: in the package, its PONG says that the device state is loaded. */
  PACKAGE_LOADED: 0x42,
} as const;

/** A range of a RAM block: byte offset and length in bytes, multiples of the block's host page size. */
export interface DiscardRange {
  readonly start: number;
  readonly lengthBytes: number;
}

/** A command as it was decoded; of PACKAGED only its length. */
export type DecodedCommand =
  | { readonly type: 'open-return-path' }
  | { readonly type: 'ping'; readonly value: number }
  | { readonly type: 'postcopy-advise'; readonly pageSizeSummary: number; readonly targetPageBytes: number }
  | { readonly type: 'postcopy-advise-bitmaps' }
  | { readonly type: 'postcopy-listen' }
  | { readonly type: 'postcopy-run' }
  | {
      readonly type: 'postcopy-ram-discard';
      readonly idstr: string;
      readonly ranges: readonly DiscardRange[];
    }
  | { readonly type: 'packaged-header'; readonly lengthBytes: number }
  | { readonly type: 'enable-colo' }
  | { readonly type: 'postcopy-resume' }
  | { readonly type: 'recv-bitmap'; readonly idstr: string }
  | { readonly type: 'switchover-start' };

/** A command as a destination gets it: a package comes with its content; of features it has not, none comes. */
export type Command =
  | Exclude<DecodedCommand, { type: 'packaged-header' | 'postcopy-advise-bitmaps' | 'enable-colo' }>
  | { readonly type: 'packaged'; readonly bytes: Uint8Array };

/** QEMU reads any number of pairs, but sends no more than this in a command. */
const MAX_DISCARD_RANGES_PER_COMMAND = 12;

const NO_PAYLOAD = new Uint8Array(0);

/** A whole command. */
export function writeCommand(
  writer: ByteWriter,
  command: MigrationCommand,
  payload: Uint8Array = NO_PAYLOAD,
): void {
  const { payloadBytes } = COMMANDS[command];
  assert(payloadBytes === 'variable' || payloadBytes === payload.length);
  writer.u8(SectionType.COMMAND);
  writer.u16(command);
  writer.u16(payload.length);
  writer.bytes(payload);
}

/** A whole command in memory of its own. */
export function encodeCommand(command: MigrationCommand, payload: Uint8Array = NO_PAYLOAD): Uint8Array {
  const encoded = new Uint8Array(COMMAND_HEADER_BYTES + payload.length);
  writeCommand(new ByteWriter(encoded), command, payload);
  return encoded;
}

export function encodePing(value: number): Uint8Array {
  const payload = new ByteWriter(new Uint8Array(4));
  payload.u32(value);
  return encodeCommand(MigrationCommand.PING, payload.subarray());
}

/**
 * @param pageSizeSummary the host page sizes of all blocks in bytes, ORed
 * @param targetPageBytes target page size in bytes
 */
export function encodeAdvise(pageSizeSummary: number, targetPageBytes: number): Uint8Array {
  const payload = new ByteWriter(new Uint8Array(16));
  payload.u64(pageSizeSummary);
  payload.u64(targetPageBytes);
  return encodeCommand(MigrationCommand.POSTCOPY_ADVISE, payload.subarray());
}

/** As many POSTCOPY_RAM_DISCARD commands as the ranges need: none for no ranges. */
export function encodeDiscards(idstr: string, ranges: readonly DiscardRange[]): Uint8Array[] {
  const commands: Uint8Array[] = [];
  for (let first = 0; first < ranges.length; first += MAX_DISCARD_RANGES_PER_COMMAND) {
    const some = ranges.slice(first, first + MAX_DISCARD_RANGES_PER_COMMAND);
    const payload = new ByteWriter(new Uint8Array(1 + 1 + idstr.length + 1 + some.length * 16));
    payload.u8(0);
    payload.cstr(idstr);
    payload.u8(0);
    for (const { start, lengthBytes } of some) {
      payload.u64(start);
      payload.u64(lengthBytes);
    }
    commands.push(encodeCommand(MigrationCommand.POSTCOPY_RAM_DISCARD, payload.subarray()));
  }
  return commands;
}

/** The command that `lengthBytes` bytes of package must follow. */
export function encodePackagedHeader(lengthBytes: number): Uint8Array {
  const payload = new ByteWriter(new Uint8Array(4));
  payload.u32(lengthBytes);
  return encodeCommand(MigrationCommand.PACKAGED, payload.subarray());
}

export function encodeRecvBitmapCommand(idstr: string): Uint8Array {
  const payload = new ByteWriter(new Uint8Array(1 + idstr.length));
  payload.cstr(idstr);
  return encodeCommand(MigrationCommand.RECV_BITMAP, payload.subarray());
}

/** Whether a number from the wire names a command. */
export function isMigrationCommand(value: number): value is MigrationCommand {
  return Object.hasOwn(COMMANDS, value);
}

/**
 * Decodes the payload of a command.
 *
 * @param payload all of it; its length is checked here
 * @param at stream byte of the payload, for the error
 * @throws {StreamError} `BAD_LENGTH`, `BAD_VERSION`, `BAD_VALUE`, `OUT_OF_RANGE`
 */
export function decodeCommandPayload(
  command: MigrationCommand,
  payload: Uint8Array,
  at: number,
  streamName?: StreamName,
): DecodedCommand {
  const { name, payloadBytes } = COMMANDS[command];
  const reader = new PayloadReader(name, payload, at, streamName);
  if (payloadBytes !== 'variable' && payloadBytes !== payload.length) {
    throw reader.error('BAD_LENGTH', `length must be ${payloadBytes}, got ${payload.length}`, 0);
  }
  switch (command) {
    case MigrationCommand.OPEN_RETURN_PATH:
      return { type: 'open-return-path' };
    case MigrationCommand.PING:
      return { type: 'ping', value: reader.u32() };
    case MigrationCommand.POSTCOPY_ADVISE:
      return decodeAdvise(reader);
    case MigrationCommand.POSTCOPY_LISTEN:
      return { type: 'postcopy-listen' };
    case MigrationCommand.POSTCOPY_RUN:
      return { type: 'postcopy-run' };
    case MigrationCommand.POSTCOPY_RAM_DISCARD:
      return decodeDiscard(reader);
    case MigrationCommand.PACKAGED:
      return { type: 'packaged-header', lengthBytes: reader.u32() };
    case MigrationCommand.ENABLE_COLO:
      return { type: 'enable-colo' };
    case MigrationCommand.POSTCOPY_RESUME:
      return { type: 'postcopy-resume' };
    case MigrationCommand.RECV_BITMAP:
      return decodeRecvBitmap(reader);
    case MigrationCommand.SWITCHOVER_START:
      return { type: 'switchover-start' };
  }
}

function decodeAdvise(reader: PayloadReader): DecodedCommand {
  if (reader.remaining === 0) return { type: 'postcopy-advise-bitmaps' };
  if (reader.remaining !== 16) {
    throw reader.error('BAD_LENGTH', `length must be 0 or 16, got ${reader.remaining}`, 0);
  }
  return { type: 'postcopy-advise', pageSizeSummary: reader.u64(), targetPageBytes: reader.u64() };
}

function decodeDiscard(reader: PayloadReader): DecodedCommand {
  const version = reader.u8();
  if (version !== 0) throw reader.error('BAD_VERSION', `version must be 0, got ${version}`, 0);
  const idstr = reader.cstr();
  const nulPosition = reader.position;
  const nul = reader.u8();
  if (nul !== 0) {
    throw reader.error('BAD_VALUE', `block name must end with a NUL, got ${hex(nul)}`, nulPosition);
  }
  if (reader.remaining === 0 || reader.remaining % 16 !== 0) {
    throw reader.error(
      'BAD_LENGTH',
      `ranges must take a positive multiple of 16 bytes, got ${reader.remaining}`,
      reader.position,
    );
  }
  const ranges: DiscardRange[] = [];
  while (reader.remaining > 0) ranges.push({ start: reader.u64(), lengthBytes: reader.u64() });
  return { type: 'postcopy-ram-discard', idstr, ranges };
}

function decodeRecvBitmap(reader: PayloadReader): DecodedCommand {
  const idstr = reader.cstr();
  if (reader.remaining !== 0) {
    throw reader.error('BAD_LENGTH', `${reader.remaining} bytes follow the block name`, reader.position);
  }
  return { type: 'recv-bitmap', idstr };
}

/** Reads fields one after another; a field that does not fit is the peer's fault. */
class PayloadReader {
  position = 0;
  readonly #name: string;
  readonly #payload: Uint8Array;
  readonly #view: DataView;
  readonly #at: number;
  readonly #streamName: StreamName | undefined;

  constructor(name: string, payload: Uint8Array, at: number, streamName: StreamName | undefined) {
    this.#name = name;
    this.#payload = payload;
    this.#view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
    this.#at = at;
    this.#streamName = streamName;
  }

  get remaining(): number {
    return this.#payload.length - this.position;
  }

  u8(): number {
    return this.#view.getUint8(this.#advance(1));
  }

  u32(): number {
    return this.#view.getUint32(this.#advance(4));
  }

  u64(): number {
    const position = this.#advance(8);
    const value = this.#view.getBigUint64(position);
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) {
      throw this.error('OUT_OF_RANGE', `number must be below 2^53, got 0x${value.toString(16)}`, position);
    }
    return Number(value);
  }

  cstr(): string {
    const lengthBytes = this.u8();
    if (lengthBytes === 0) throw this.error('BAD_LENGTH', 'block name is empty', this.position - 1);
    const start = this.#advance(lengthBytes);
    return asciiText(this.#payload, start, this.position);
  }

  error(code: StreamErrorCode, what: string, position: number): StreamError {
    return new StreamError(
      code,
      `Cannot read command ${this.#name}: ${what}`,
      this.#at + position,
      this.#streamName,
    );
  }

  #advance(countBytes: number): number {
    const position = this.position;
    if (countBytes > this.remaining) {
      throw this.error('BAD_LENGTH', `payload of ${this.#payload.length} bytes is too short`, position);
    }
    this.position = position + countBytes;
    return position;
  }
}
