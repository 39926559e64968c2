/**
 * The fixed memory that a stream is received into, and how far it has been decoded.
 *
 *   bytes  [ decoded | position … not yet decoded … end | free ]
 *
 * What is not decoded yet moves only in `free()`, so a position in `bytes` stays valid until then.
 */
import assert from 'node:assert/strict';
import { StreamError, type StreamErrorCode, type StreamName } from './stream-error.ts';

export class InputBuffer {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** The next byte to decode. */
  position = 0;
  /** One past the last byte received. */
  end = 0;
  /** Stream byte of `bytes[0]`. */
  #firstAt = 0;
  /** Which stream this is, for errors. */
  readonly streamName: StreamName;

  constructor(bytes: Uint8Array, streamName: StreamName) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.streamName = streamName;
  }

  /** Bytes received and not yet decoded. */
  get available(): number {
    return this.end - this.position;
  }

  /** Moves what is not decoded to the front. Returns the memory behind it. */
  free(): Uint8Array {
    if (this.position > 0) {
      this.bytes.copyWithin(0, this.position, this.end);
      this.#firstAt += this.position;
      this.end -= this.position;
      this.position = 0;
    }
    return this.bytes.subarray(this.end);
  }

  /** The first `countBytes` of what `free()` returned now hold the next bytes of the stream. */
  commit(countBytes: number): void {
    assert(countBytes >= 0 && this.end + countBytes <= this.bytes.length);
    this.end += countBytes;
  }

  /** Leaves out `countBytes` bytes of the stream, which were not received. */
  skip(countBytes: number): void {
    assert(this.available === 0);
    this.#firstAt += countBytes;
  }

  /** Stream byte of a position in `bytes`. */
  at(position: number): number {
    return this.#firstAt + position;
  }

  error(code: StreamErrorCode, what: string, position: number): StreamError {
    return new StreamError(code, what, this.at(position), this.streamName);
  }
}
