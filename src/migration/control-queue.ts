/**
 * Messages that go out whole and in order, before any page: headers, commands, device state.
 */
import type { ByteWriter } from '../wire/byte-writer.ts';

export class ControlQueue {
  readonly #messages: Uint8Array[] = [];
  /** How much of the first message is out. */
  #writtenBytes = 0;
  #pendingBytes = 0;

  get pendingBytes(): number {
    return this.#pendingBytes;
  }

  push(message: Uint8Array): void {
    this.#messages.push(message);
    this.#pendingBytes += message.length;
  }

  /** What is not out yet never will be. */
  clear(): void {
    this.#messages.length = 0;
    this.#writtenBytes = 0;
    this.#pendingBytes = 0;
  }

  /** Writes as much as fits. */
  writeTo(writer: ByteWriter): void {
    for (
      let message = this.#messages[0];
      message !== undefined && writer.remaining > 0;
      message = this.#messages[0]
    ) {
      const bytes = message.subarray(this.#writtenBytes, this.#writtenBytes + writer.remaining);
      writer.bytes(bytes);
      this.#writtenBytes += bytes.length;
      this.#pendingBytes -= bytes.length;
      if (this.#writtenBytes < message.length) return;
      this.#messages.shift();
      this.#writtenBytes = 0;
    }
  }
}
