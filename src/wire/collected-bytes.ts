/**
 * Bytes whose number the peer has announced, collected as they arrive.
 *
 * The peer's word alone costs us no more than `FIRST_CAPACITY_BYTES`: memory grows with what really came. The caller
 * holds the announced length against a limit.
 */
const FIRST_CAPACITY_BYTES = 1024 * 1024;

export class CollectedBytes {
  readonly #lengthBytes: number;
  #memory: Uint8Array;
  #countBytes = 0;

  constructor(lengthBytes: number) {
    this.#lengthBytes = lengthBytes;
    this.#memory = new Uint8Array(Math.min(lengthBytes, FIRST_CAPACITY_BYTES));
  }

  get isComplete(): boolean {
    return this.#countBytes === this.#lengthBytes;
  }

  /** What was collected so far; shares memory with this until more is added. */
  get bytes(): Uint8Array {
    return this.#memory.subarray(0, this.#countBytes);
  }

  /** Copies what is still missing from `source[start]` on, at most up to `end`. Returns how many bytes it took. */
  take(source: Uint8Array, start: number, end: number): number {
    const takenBytes = Math.min(end - start, this.#lengthBytes - this.#countBytes);
    this.#reserve(this.#countBytes + takenBytes);
    this.#memory.set(source.subarray(start, start + takenBytes), this.#countBytes);
    this.#countBytes += takenBytes;
    return takenBytes;
  }

  #reserve(neededBytes: number): void {
    if (neededBytes <= this.#memory.length) return;
    const doubledBytes = Math.max(neededBytes, this.#memory.length * 2);
    const grown = new Uint8Array(Math.min(doubledBytes, this.#lengthBytes));
    grown.set(this.bytes);
    this.#memory = grown;
  }
}
