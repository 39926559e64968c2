/**
 * A stream of bytes to JSON messages, for QMP: objects follow each other, with or without blanks between.
 *
 * A message ends where its braces and brackets are even, or where one closes too many. After bytes that cannot begin
 * or go on with a message, the reader skips to where a message may begin: a brace, a bracket, or a control character
 * such as an end of line. A client can thus force it into a known state with an end of line or the byte 0xFF, as with QEMU.
 */

/** Longest message taken unless told: a thousand times what any command needs, and nothing a peer can fill memory with. */
export const MAX_MESSAGE_BYTES = 1 << 20;

/** Deepest nesting taken, as QEMU's parser. */
export const MAX_NESTING = 1024;

/** A message, or the reason why bytes were no message. */
export type JsonItem = { readonly value: unknown } | { readonly error: string };

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;
const OPEN_BRACKET = 0x5b;
const CLOSE_BRACKET = 0x5d;

type Mode = 'between' | 'message' | 'string' | 'escape' | 'skip' | 'skip-line';

export class JsonReader {
  #mode: Mode = 'between';
  #braces = 0;
  #brackets = 0;
  /** The message so far, from earlier chunks: in one piece, since a peer may send it byte by byte. */
  #kept = new Uint8Array(0);
  #pieceBytes = 0;
  readonly #decoder = new TextDecoder('utf-8', { fatal: true });
  readonly #maxMessageBytes: number;

  constructor(maxMessageBytes = MAX_MESSAGE_BYTES) {
    this.#maxMessageBytes = maxMessageBytes;
  }

  /** Takes the next bytes, which need not end where a message does. Items are made as they are asked for. */
  *push(chunk: Uint8Array): Generator<JsonItem> {
    let start = 0;
    for (let index = 0; index < chunk.length; index++) {
      const byte = chunk[index] as number;
      if (!isInMessage(this.#mode)) {
        const item = this.#between(byte);
        if (item !== undefined) yield item;
        start = index;
        if (!isInMessage(this.#mode)) continue;
      }
      if (this.#pieceBytes + index - start >= this.#maxMessageBytes) {
        yield this.#fail(`message is longer than ${this.#maxMessageBytes} bytes`, 'skip-line');
        continue;
      }
      const broken = this.#inside(byte);
      if (broken !== undefined) {
        yield this.#fail(broken, isControl(byte) ? 'between' : 'skip');
      } else if (this.#mode === 'message' && this.#isComplete()) {
        yield this.#take(chunk.subarray(start, index + 1));
      }
    }
    if (isInMessage(this.#mode)) {
      this.#keep(chunk.subarray(start));
    }
  }

  /** What a byte outside a message does; it may begin one. */
  #between(byte: number): JsonItem | undefined {
    if (this.#mode === 'skip-line' && !isControl(byte)) return undefined;
    if (byte === OPEN_BRACE || byte === OPEN_BRACKET) {
      this.#mode = 'message';
      return undefined;
    }
    if (this.#mode !== 'between') {
      if (isControl(byte)) this.#mode = 'between';
      return undefined;
    }
    if (byte === 0x20 || byte === 0x09 || byte === 0x0a || byte === 0x0d) return undefined;
    if (isControl(byte)) return { error: 'JSON parse error, stray control character' };
    this.#mode = 'skip';
    return { error: 'JSON parse error, expecting an object' };
  }

  /** Moves on by a byte of a message. @returns why it cannot be one */
  #inside(byte: number): string | undefined {
    if (this.#mode === 'escape') {
      this.#mode = 'string';
    } else if (this.#mode === 'string') {
      if (byte === BACKSLASH) this.#mode = 'escape';
      else if (byte === QUOTE) this.#mode = 'message';
      else if (isControl(byte)) return 'control character in a string';
    } else if (byte === QUOTE) {
      this.#mode = 'string';
    } else if (byte >= 0xfe) {
      return 'stray byte';
    } else {
      if (byte === OPEN_BRACE) this.#braces++;
      else if (byte === CLOSE_BRACE) this.#braces--;
      else if (byte === OPEN_BRACKET) this.#brackets++;
      else if (byte === CLOSE_BRACKET) this.#brackets--;
      if (this.#braces + this.#brackets > MAX_NESTING) return `nesting is deeper than ${MAX_NESTING}`;
    }
    return undefined;
  }

  #isComplete(): boolean {
    return this.#braces < 0 || this.#brackets < 0 || (this.#braces === 0 && this.#brackets === 0);
  }

  #take(lastPiece: Uint8Array): JsonItem {
    this.#keep(lastPiece);
    const bytes = this.#kept.subarray(0, this.#pieceBytes);
    this.#reset('between');
    try {
      return { value: JSON.parse(this.#decoder.decode(bytes)) as unknown };
    } catch (error) {
      return { error: `JSON parse error, ${(error as Error).message}` };
    }
  }

  #fail(reason: string, mode: Mode): JsonItem {
    this.#reset(mode);
    return { error: `JSON parse error, ${reason}` };
  }

  #reset(mode: Mode): void {
    this.#mode = mode;
    this.#braces = 0;
    this.#brackets = 0;
    this.#kept = new Uint8Array(0);
    this.#pieceBytes = 0;
  }

  #keep(piece: Uint8Array): void {
    const neededBytes = this.#pieceBytes + piece.length;
    if (neededBytes > this.#kept.length) {
      const grown = new Uint8Array(Math.max(neededBytes, 2 * this.#pieceBytes));
      grown.set(this.#kept.subarray(0, this.#pieceBytes));
      this.#kept = grown;
    }
    this.#kept.set(piece, this.#pieceBytes);
    this.#pieceBytes = neededBytes;
  }
}

/** Control characters but the tab, and the two bytes that UTF-8 never uses. */
function isControl(byte: number): boolean {
  return (byte < 0x20 && byte !== 0x09) || byte >= 0xfe;
}

function isInMessage(mode: Mode): boolean {
  return mode === 'message' || mode === 'string' || mode === 'escape';
}
