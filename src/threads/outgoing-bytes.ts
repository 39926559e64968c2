/**
 * The next bytes of a stream, on their way to a descriptor: a buffer, with pages that are sent from where they are.
 *
 *   buffer  [ header |  gap of a page  | header |  gap of a page  | … ]
 *   iovecs  [ header ][ page in memory ][ header ][ page in memory ] …
 *
 * A page is copied once, by the kernel. Its content is that of the moment of the write, not of `addPage`.
 */
import assert from 'node:assert/strict';
import { gatherFrom, IOVEC_BYTES, MAX_IOVECS, WOULD_BLOCK } from '../linux/fd.ts';
import { mapAnonymous } from '../linux/memory.ts';
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';

const DEFAULT_CAPACITY_BYTES = 1024 * 1024;
const TWO_TO_THE_32 = 0x1_0000_0000;
const WORDS_PER_IOVEC = IOVEC_BYTES / 4;

export class OutgoingBytes {
  readonly #buffer: ReturnType<typeof mapAnonymous>;
  readonly #bufferAddress: number;
  readonly #iovecs = mapAnonymous(MAX_IOVECS * IOVEC_BYTES);
  readonly #iovecsAddress = Number(this.#iovecs.address);
  readonly #words = new Uint32Array(this.#iovecs.bytes.buffer);
  /** The iovecs that are not written yet. */
  #first = 0;
  #end = 0;
  /** How much of the buffer has a place in the iovecs. */
  #coveredBytes = 0;
  #pendingBytes = 0;

  /** @param capacityBytes length of the buffer; gaps cost no memory */
  constructor(capacityBytes = DEFAULT_CAPACITY_BYTES) {
    assert(2 * Math.ceil(capacityBytes / TARGET_PAGE_BYTES) + 1 <= MAX_IOVECS);
    this.#buffer = mapAnonymous(capacityBytes);
    this.#bufferAddress = Number(this.#buffer.address);
  }

  /** What is still to be written, in bytes; all of it must be before the buffer is filled again. */
  get pendingBytes(): number {
    return this.#pendingBytes;
  }

  /** Filled from its start; then `commit` says how far. */
  get buffer(): Uint8Array {
    return this.#buffer.bytes;
  }

  /** Instead of the page at `at` in the buffer, the one at `address` is sent. Called in the order of the buffer. */
  addPage(at: number, address: number): void {
    if (at > this.#coveredBytes) {
      this.#addPiece(this.#bufferAddress + this.#coveredBytes, at - this.#coveredBytes);
    }
    this.#addPiece(address, TARGET_PAGE_BYTES);
    this.#coveredBytes = at + TARGET_PAGE_BYTES;
  }

  /** The buffer holds so many bytes, gaps included. */
  commit(lengthBytes: number): void {
    assert(this.#pendingBytes === 0 && lengthBytes >= this.#coveredBytes);
    if (lengthBytes > this.#coveredBytes) {
      this.#addPiece(this.#bufferAddress + this.#coveredBytes, lengthBytes - this.#coveredBytes);
    }
    this.#coveredBytes = 0;
    this.#pendingBytes = lengthBytes;
  }

  /**
   * Writes as much as the descriptor takes.
   *
   * @returns bytes written, or `WOULD_BLOCK`
   * @throws {SyscallError}
   */
  writeTo(fd: number): number {
    const count = gatherFrom(fd, this.#iovecsAddress + this.#first * IOVEC_BYTES, this.#end - this.#first);
    if (count === WOULD_BLOCK) return WOULD_BLOCK;
    this.#pendingBytes -= count;
    if (this.#pendingBytes === 0) {
      this.#first = 0;
      this.#end = 0;
    } else this.#advance(count);
    return count;
  }

  /** What is not written yet never will be. */
  clear(): void {
    this.#first = 0;
    this.#end = 0;
    this.#coveredBytes = 0;
    this.#pendingBytes = 0;
  }

  /** Gives the memory back; may be called twice. */
  close(): void {
    this.#buffer.unmap();
    this.#iovecs.unmap();
  }

  #addPiece(address: number, lengthBytes: number): void {
    const word = this.#end * WORDS_PER_IOVEC;
    this.#end++;
    this.#set(word, address, lengthBytes);
  }

  /** So many bytes are written: the iovecs in front are done, the next one perhaps in part. */
  #advance(countBytes: number): void {
    let doneBytes = countBytes;
    for (;;) {
      const word = this.#first * WORDS_PER_IOVEC;
      const lengthBytes = this.#words[word + 2] as number;
      if (doneBytes < lengthBytes) {
        const address = (this.#words[word + 1] as number) * TWO_TO_THE_32 + (this.#words[word] as number);
        this.#set(word, address + doneBytes, lengthBytes - doneBytes);
        return;
      }
      doneBytes -= lengthBytes;
      this.#first++;
    }
  }

  /** The high word of a length stays 0. */
  #set(word: number, address: number, lengthBytes: number): void {
    this.#words[word] = address; // Modulo 2^32.
    this.#words[word + 1] = address / TWO_TO_THE_32;
    this.#words[word + 2] = lengthBytes;
  }
}
