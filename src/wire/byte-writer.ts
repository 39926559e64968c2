/**
 * Writes big-endian numbers and counted strings into memory the caller owns.
 *
 * Allocates nothing after construction, so it may be used while a guest waits. Writing past the end, or a number that
 * does not fit its field, is a mistake of ours and not of a peer: it asserts, but for `u64()`, whose values come from sizes.
 */
import assert from 'node:assert/strict';

const TWO_TO_THE_32 = 0x1_0000_0000;

export class ByteWriter {
  /** Where in the target the next byte goes; set it to 0 to use the memory again. */
  position: number;
  /** The memory that is written to. */
  readonly target: Uint8Array;
  readonly #view: DataView;

  constructor(target: Uint8Array, position = 0) {
    assert(position >= 0 && position <= target.length);
    this.target = target;
    this.#view = new DataView(target.buffer, target.byteOffset, target.byteLength);
    this.position = position;
  }

  /** Bytes that still fit. */
  get remaining(): number {
    return this.target.length - this.position;
  }

  u8(value: number): void {
    assert(value >= 0 && value <= 0xff);
    this.#view.setUint8(this.#advance(1), value);
  }

  u16(value: number): void {
    assert(value >= 0 && value <= 0xffff);
    this.#view.setUint16(this.#advance(2), value);
  }

  u32(value: number): void {
    assert(value >= 0 && value < TWO_TO_THE_32);
    this.#view.setUint32(this.#advance(4), value);
  }

  /** @throws {RangeError} unless `value` is a safe integer, at least 0 */
  u64(value: number): void {
    if (!Number.isSafeInteger(value) || value < 0) {
      throw new RangeError(`Cannot write u64: value must be a safe integer of at least 0, got ${value}`);
    }
    const position = this.#advance(8);
    this.#view.setUint32(position, Math.floor(value / TWO_TO_THE_32));
    this.#view.setUint32(position + 4, value % TWO_TO_THE_32);
  }

  bytes(source: Uint8Array): void {
    const position = this.#advance(source.length);
    this.target.set(source, position);
  }

  /** Writes the length of `text` as u8 and then its characters: 1 to 255, ASCII. */
  cstr(text: string): void {
    assert(text.length >= 1 && text.length <= 255, `length of "${text}" must be 1 to 255`);
    this.u8(text.length);
    this.ascii(text);
  }

  /** Writes the characters of `text`, all ASCII, without their count. */
  ascii(text: string): void {
    const position = this.#advance(text.length);
    for (let index = 0; index < text.length; index++) {
      const code = text.charCodeAt(index);
      assert(code < 0x80, `"${text}" must be ASCII`);
      this.target[position + index] = code;
    }
  }

  /** The target from its first byte to the last one written; shares its memory. */
  subarray(): Uint8Array {
    return this.target.subarray(0, this.position);
  }

  #advance(countBytes: number): number {
    const position = this.position;
    assert(position + countBytes <= this.target.length, 'write past the end of the buffer');
    this.position = position + countBytes;
    return position;
  }
}
