/**
 * Return path: what the destination tells the source.
 *
 *   byte  size  type   field
 *   0     2     u16    ReturnPathType
 *   2     2     u16    length of the payload
 *   4     n            payload
 *
 *   SHUT           u32 status: 0 if the destination has the guest; the last message
 *   PONG           u32 value of the PING it answers
 *   REQ_PAGES_ID   u64 start, u32 length, cstr block: bytes in that block are needed now
 *   REQ_PAGES      u64 start, u32 length: the same in the block named last
 *   RECV_BITMAP    cstr block; then, not counted in the payload: u64 size, the bitmap of pages held (bit 0 of byte 0
 *                  is page 0) padded to 8 bytes, u64 0x0123456789abcdef
 *   RESUME_ACK     u32 1
 *   SWITCHOVER_ACK nothing
 *
 * Source: QEMU migration/migration.c, rp_cmd_args; migration/ram.c, ramblock_recv_bitmap_send().
 */
import { ByteWriter } from './byte-writer.ts';

export const ReturnPathType = {
  SHUT: 1,
  PONG: 2,
  REQ_PAGES_ID: 3,
  REQ_PAGES: 4,
  RECV_BITMAP: 5,
  RESUME_ACK: 6,
  SWITCHOVER_ACK: 7,
} as const;

export type ReturnPathType = (typeof ReturnPathType)[keyof typeof ReturnPathType];

/** Every message: its name, and the length of its payload in bytes; with a block name, its length without that cstr. */
export const RETURN_PATH_MESSAGES = {
  [ReturnPathType.SHUT]: { name: 'SHUT', payloadBytes: 4, hasBlock: false },
  [ReturnPathType.PONG]: { name: 'PONG', payloadBytes: 4, hasBlock: false },
  [ReturnPathType.REQ_PAGES_ID]: { name: 'REQ_PAGES_ID', payloadBytes: 12, hasBlock: true },
  [ReturnPathType.REQ_PAGES]: { name: 'REQ_PAGES', payloadBytes: 12, hasBlock: false },
  [ReturnPathType.RECV_BITMAP]: { name: 'RECV_BITMAP', payloadBytes: 0, hasBlock: true },
  [ReturnPathType.RESUME_ACK]: { name: 'RESUME_ACK', payloadBytes: 4, hasBlock: false },
  [ReturnPathType.SWITCHOVER_ACK]: { name: 'SWITCHOVER_ACK', payloadBytes: 0, hasBlock: false },
} as const satisfies Record<ReturnPathType, { name: string; payloadBytes: number; hasBlock: boolean }>;

export type ReturnPathMessage =
  | { readonly type: 'shut'; readonly status: number }
  | { readonly type: 'pong'; readonly value: number }
  | {
      readonly type: 'req-pages';
      /** The block, also when the message did not name it. */
      readonly idstr: string;
      /** Byte offset in the block; a multiple of 4096, as is the length. */
      readonly start: number;
      readonly lengthBytes: number;
    }
  | { readonly type: 'recv-bitmap'; readonly idstr: string; readonly bitmap: Uint8Array }
  | { readonly type: 'resume-ack' }
  | { readonly type: 'switchover-ack' };

export const RETURN_PATH_HEADER_BYTES = 4;
export const RESUME_ACK_VALUE = 1;
export const RECV_BITMAP_END_MARK = 0x0123456789abcdefn;
/** The longest REQ_PAGES_ID: no other message but RECV_BITMAP with its bitmap is longer. */
export const REQ_PAGES_MAX_BYTES = RETURN_PATH_HEADER_BYTES + 12 + 1 + 255;

/** The destination is done: 0 if it has the guest, else the migration failed there. */
export function encodeShut(status: number): Uint8Array {
  return encodeWithU32(ReturnPathType.SHUT, status);
}

export function encodePong(value: number): Uint8Array {
  return encodeWithU32(ReturnPathType.PONG, value);
}

export function encodeResumeAck(): Uint8Array {
  return encodeWithU32(ReturnPathType.RESUME_ACK, RESUME_ACK_VALUE);
}

export function encodeSwitchoverAck(): Uint8Array {
  const writer = new ByteWriter(new Uint8Array(RETURN_PATH_HEADER_BYTES));
  writeHeader(writer, ReturnPathType.SWITCHOVER_ACK, 0);
  return writer.subarray();
}

/** Requests bytes of a block by name: the first request, and any for another block than the last. */
export function encodeReqPagesId(start: number, lengthBytes: number, idstr: string): Uint8Array {
  const writer = new ByteWriter(new Uint8Array(REQ_PAGES_MAX_BYTES));
  writeReqPagesId(writer, start, lengthBytes, idstr);
  return writer.subarray();
}

/** Requests bytes of the block named last. */
export function encodeReqPages(start: number, lengthBytes: number): Uint8Array {
  const writer = new ByteWriter(new Uint8Array(RETURN_PATH_HEADER_BYTES + 12));
  writeReqPages(writer, start, lengthBytes);
  return writer.subarray();
}

/** `encodeReqPagesId()` without allocation. */
export function writeReqPagesId(writer: ByteWriter, start: number, lengthBytes: number, idstr: string): void {
  writeHeader(writer, ReturnPathType.REQ_PAGES_ID, 12 + 1 + idstr.length);
  writer.u64(start);
  writer.u32(lengthBytes);
  writer.cstr(idstr);
}

/** `encodeReqPages()` without allocation. */
export function writeReqPages(writer: ByteWriter, start: number, lengthBytes: number): void {
  writeHeader(writer, ReturnPathType.REQ_PAGES, 12);
  writer.u64(start);
  writer.u32(lengthBytes);
}

/** @param bitmap one bit per target page of the block, 1 = held; bit 0 of byte 0 is page 0 */
export function encodeRecvBitmap(idstr: string, bitmap: Uint8Array): Uint8Array {
  const sizeBytes = Math.ceil(bitmap.length / 8) * 8;
  const payloadBytes = 1 + idstr.length;
  const writer = new ByteWriter(new Uint8Array(RETURN_PATH_HEADER_BYTES + payloadBytes + 8 + sizeBytes + 8));
  writeHeader(writer, ReturnPathType.RECV_BITMAP, payloadBytes);
  writer.cstr(idstr);
  writer.u64(sizeBytes);
  writer.bytes(bitmap);
  writer.position += sizeBytes - bitmap.length;
  writer.u32(Number(RECV_BITMAP_END_MARK >> 32n));
  writer.u32(Number(RECV_BITMAP_END_MARK & 0xffffffffn));
  return writer.subarray();
}

/** Whether a number from the wire names a message. */
export function isReturnPathType(value: number): value is ReturnPathType {
  return Object.hasOwn(RETURN_PATH_MESSAGES, value);
}

function encodeWithU32(type: ReturnPathType, value: number): Uint8Array {
  const writer = new ByteWriter(new Uint8Array(RETURN_PATH_HEADER_BYTES + 4));
  writeHeader(writer, type, 4);
  writer.u32(value);
  return writer.subarray();
}

function writeHeader(writer: ByteWriter, type: ReturnPathType, payloadBytes: number): void {
  writer.u16(type);
  writer.u16(payloadBytes);
}
