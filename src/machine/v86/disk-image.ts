/**
 * A disk of the machine: a file that is only read, and what the guest has written over it.
 *
 * The file is never changed. What the guest writes is kept in memory, in blocks, and moves with the device state; so
 * both ends must be given the same file. In the shape v86 wants of a buffer: `get`, `set`, `load`, and a state.
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import type { StateValue } from './state-codec.ts';

const BLOCK_BYTES = 4096;

export class DiskImage {
  readonly byteLength: number;
  /** Called once v86 has asked for the disk to be loaded; set by v86. */
  onload: ((event: object) => void) | undefined;
  readonly #written = new Map<number, Uint8Array>();
  #fd: number | undefined;

  private constructor(byteLength: number, fd: number | undefined) {
    this.byteLength = byteLength;
    this.#fd = fd;
  }

  /** @throws {Error} as `openSync` does */
  static open(path: string): DiskImage {
    const fd = openSync(path, 'r');
    return new DiskImage(fstatSync(fd).size, fd);
  }

  /** A disk of zeros. */
  static blank(byteLength: number): DiskImage {
    return new DiskImage(byteLength, undefined);
  }

  load(): void {
    this.onload?.({});
  }

  get(start: number, lengthBytes: number, done: (bytes: Uint8Array) => void): void {
    done(this.get_from_cache(start, lengthBytes));
  }

  get_and_cache(start: number, lengthBytes: number, done: (bytes: Uint8Array) => void): void {
    this.get(start, lengthBytes, done);
  }

  /** What is beyond the end reads as zeros. */
  get_from_cache(start: number, lengthBytes: number): Uint8Array {
    const bytes = new Uint8Array(lengthBytes);
    this.#eachBlock(start, lengthBytes, (block, from, to, at) => {
      const written = this.#written.get(block);
      const part = bytes.subarray(at, at + to - from);
      if (written !== undefined) part.set(written.subarray(from, to));
      else this.#readFile(part, block * BLOCK_BYTES + from);
    });
    return bytes;
  }

  set(start: number, bytes: Uint8Array, done: () => void): void {
    this.#eachBlock(start, bytes.length, (block, from, to, at) => {
      let written = this.#written.get(block);
      if (written === undefined) {
        written = new Uint8Array(BLOCK_BYTES);
        this.#readFile(written, block * BLOCK_BYTES);
        this.#written.set(block, written);
      }
      written.set(bytes.subarray(at, at + to - from), from);
    });
    done();
  }

  get_state(): StateValue[] {
    const blocks = [...this.#written.keys()].sort((left, right) => left - right);
    const bytes = new Uint8Array(blocks.length * BLOCK_BYTES);
    blocks.forEach((block, index) => {
      bytes.set(this.#written.get(block)!, index * BLOCK_BYTES);
    });
    return [this.byteLength, Uint32Array.from(blocks), bytes];
  }

  /** @throws {RangeError} if the state is not one of a disk of this size */
  set_state(state: StateValue): void {
    const [byteLength, blocks, bytes] = Array.isArray(state) ? state : [];
    if (byteLength !== this.byteLength) {
      throw new RangeError(`Cannot load disk: it must have ${this.byteLength} bytes here, got ${byteLength}`);
    }
    if (!(blocks instanceof Uint32Array) || !(bytes instanceof Uint8Array)) {
      throw new RangeError('Cannot load disk: its blocks are missing');
    }
    const blockCount = Math.ceil(this.byteLength / BLOCK_BYTES);
    if (bytes.length !== blocks.length * BLOCK_BYTES || blocks.some((block) => block >= blockCount)) {
      throw new RangeError(`Cannot load disk: ${blocks.length} blocks with ${bytes.length} bytes do not fit`);
    }
    this.#written.clear();
    blocks.forEach((block, index) => {
      this.#written.set(block, bytes.slice(index * BLOCK_BYTES, (index + 1) * BLOCK_BYTES));
    });
  }

  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }

  #eachBlock(
    start: number,
    lengthBytes: number,
    visit: (block: number, from: number, to: number, at: number) => void,
  ): void {
    const end = Math.min(start + lengthBytes, this.byteLength);
    for (let position = start; position < end; ) {
      const block = Math.floor(position / BLOCK_BYTES);
      const from = position % BLOCK_BYTES;
      const to = Math.min(BLOCK_BYTES, from + end - position);
      visit(block, from, to, position - start);
      position += to - from;
    }
  }

  #readFile(into: Uint8Array, position: number): void {
    if (this.#fd === undefined) return;
    for (let done = 0; done < into.length; ) {
      const count = readSync(this.#fd, into, done, into.length - done, position + done);
      if (count === 0) return;
      done += count;
    }
  }
}
