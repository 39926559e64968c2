/**
 * A stream of bytes to lines of text, for people: any cut, `\n` or `\r\n`, and a limit.
 */

/** Longest line taken. */
export const MAX_LINE_BYTES = 1 << 16;

const NEWLINE = 0x0a;

export class LineReader {
  /** In one piece, since a peer may send it byte by byte. */
  #kept = new Uint8Array(256);
  #pieceBytes = 0;
  #isTooLong = false;

  /**
   * Takes the next bytes.
   *
   * @returns the lines they complete; null stands for one longer than `MAX_LINE_BYTES`, which is dropped
   */
  *push(chunk: Uint8Array): Generator<string | null> {
    let start = 0;
    for (;;) {
      const end = chunk.indexOf(NEWLINE, start);
      this.#keep(chunk.subarray(start, end === -1 ? chunk.length : end));
      if (end === -1) return;
      yield this.#take();
      start = end + 1;
    }
  }

  /** The last line, which no newline ended; undefined if there is none. */
  end(): string | null | undefined {
    return this.#pieceBytes === 0 && !this.#isTooLong ? undefined : this.#take();
  }

  #keep(piece: Uint8Array): void {
    if (this.#isTooLong || piece.length === 0) return;
    if (this.#pieceBytes + piece.length > MAX_LINE_BYTES) {
      this.#isTooLong = true;
      return;
    }
    const neededBytes = this.#pieceBytes + piece.length;
    if (neededBytes > this.#kept.length) {
      const grown = new Uint8Array(Math.max(neededBytes, 2 * this.#kept.length));
      grown.set(this.#kept.subarray(0, this.#pieceBytes));
      this.#kept = grown;
    }
    this.#kept.set(piece, this.#pieceBytes);
    this.#pieceBytes = neededBytes;
  }

  #take(): string | null {
    const line = this.#isTooLong
      ? null
      : Buffer.from(this.#kept.subarray(0, this.#pieceBytes)).toString('utf8').replace(/\r$/, '');
    this.#pieceBytes = 0;
    this.#isTooLong = false;
    return line;
  }
}
