/**
 * Decodes the return path (see return-path.ts) at the source.
 *
 * Takes the bytes in any pieces. Holds one message at most, and of a bitmap what has arrived, up to a limit.
 */
import { asciiText, hex } from './ascii-text.ts';
import { CollectedBytes } from './collected-bytes.ts';
import { TARGET_PAGE_BYTES } from './ram-record.ts';
import {
  isReturnPathType,
  RECV_BITMAP_END_MARK,
  RESUME_ACK_VALUE,
  RETURN_PATH_HEADER_BYTES,
  RETURN_PATH_MESSAGES,
  type ReturnPathMessage,
  ReturnPathType,
} from './return-path.ts';
import { StreamError, type StreamErrorCode } from './stream-error.ts';

/** The bitmap of a block of 2 TiB in 4 KiB pages. */
const MAX_BITMAP_BYTES = 64 * 1024 * 1024;

type State = 'header' | 'payload' | 'bitmap-size' | 'bitmap' | 'bitmap-end';

export class ReturnPathDecoder {
  readonly #maxBitmapBytes: number;
  readonly #keepsBitmaps: boolean;
  #skippedBitmapBytes = 0;
  /** The piece being collected: a header, a payload, a size or an end mark. */
  readonly #piece = new Uint8Array(12 + 1 + 255);
  readonly #view = new DataView(this.#piece.buffer);
  #haveBytes = 0;
  #needBytes = RETURN_PATH_HEADER_BYTES;
  /** Stream byte of the piece. */
  #pieceAt = 0;
  #messageAt = 0;
  #state: State = 'header';
  #type: ReturnPathType = ReturnPathType.SHUT;
  #requestIdstr: string | null = null;
  #bitmapIdstr = '';
  #bitmap = new CollectedBytes(0);

  /**
   * @param options.maxBitmapBytes limit of a received bitmap; 64 MiB by default
   * @param options.keepsBitmaps false for who only looks on: bitmaps then come empty
   */
  constructor({
    maxBitmapBytes = MAX_BITMAP_BYTES,
    keepsBitmaps = true,
  }: { readonly maxBitmapBytes?: number; readonly keepsBitmaps?: boolean } = {}) {
    this.#maxBitmapBytes = maxBitmapBytes;
    this.#keepsBitmaps = keepsBitmaps;
  }

  /** Byte of the return path where the message begins that was told last, or is being decoded. */
  get messageAt(): number {
    return this.#messageAt;
  }

  /** Whether the peer may close here without cutting a message in two. */
  get isBetweenMessages(): boolean {
    return this.#state === 'header' && this.#haveBytes === 0;
  }

  /** How many of the last bytes are of something that is not complete, so that it cannot be told whether they are legal. */
  get undecidedBytes(): number {
    const isPayload = this.#state === 'payload';
    return this.#haveBytes + (isPayload ? RETURN_PATH_HEADER_BYTES : 0);
  }

  /**
   * The messages that `chunk` completes; none of them if something is wrong behind them.
   *
   * @throws {StreamError} as `take()`
   */
  push(chunk: Uint8Array): ReturnPathMessage[] {
    const messages: ReturnPathMessage[] = [];
    this.take(chunk, (message) => messages.push(message));
    return messages;
  }

  /**
   * Tells every message that `chunk` completes, before it looks at what follows: what was said in front of something wrong
   * was said, however the bytes are cut.
   *
   * @throws {StreamError} `BAD_MESSAGE`, `BAD_LENGTH`, `BAD_VALUE`, `OUT_OF_RANGE`, `LIMIT`; this decoder is then spent
   */
  take(chunk: Uint8Array, onMessage: (message: ReturnPathMessage) => void): void {
    let position = 0;
    while (position < chunk.length) {
      if (this.#state === 'bitmap') {
        const takenBytes = this.#takeBitmap(chunk, position);
        position += takenBytes;
        this.#pieceAt += takenBytes;
        continue;
      }
      const takenBytes = Math.min(this.#needBytes - this.#haveBytes, chunk.length - position);
      this.#piece.set(chunk.subarray(position, position + takenBytes), this.#haveBytes);
      this.#haveBytes += takenBytes;
      position += takenBytes;
      if (this.#haveBytes < this.#needBytes) break;
      const message = this.#decodePiece();
      if (message !== null) onMessage(message);
    }
  }

  /** @returns how many bytes of `chunk` are of the bitmap */
  #takeBitmap(chunk: Uint8Array, position: number): number {
    if (this.#keepsBitmaps) {
      const takenBytes = this.#bitmap.take(chunk, position, chunk.length);
      if (this.#bitmap.isComplete) this.#expect('bitmap-end', 8);
      return takenBytes;
    }
    const takenBytes = Math.min(this.#skippedBitmapBytes, chunk.length - position);
    this.#skippedBitmapBytes -= takenBytes;
    if (this.#skippedBitmapBytes === 0) this.#expect('bitmap-end', 8);
    return takenBytes;
  }

  #expect(state: State, needBytes: number): void {
    this.#pieceAt += this.#haveBytes;
    this.#haveBytes = 0;
    this.#needBytes = needBytes;
    this.#state = state;
  }

  #decodePiece(): ReturnPathMessage | null {
    switch (this.#state) {
      case 'header':
        return this.#decodeHeader();
      case 'payload': {
        const message = this.#decodePayload();
        if (message === null) this.#expect('bitmap-size', 8);
        else this.#expect('header', RETURN_PATH_HEADER_BYTES);
        return message;
      }
      case 'bitmap-size':
        this.#decodeBitmapSize();
        return null;
      default:
        return this.#decodeBitmapEnd();
    }
  }

  #decodeHeader(): ReturnPathMessage | null {
    this.#messageAt = this.#pieceAt;
    const type = this.#view.getUint16(0);
    const lengthBytes = this.#view.getUint16(2);
    if (!isReturnPathType(type)) {
      throw this.#error('BAD_MESSAGE', `Unknown return path message ${hex(type)} of ${lengthBytes} bytes`, 0);
    }
    const { name, payloadBytes, hasBlock } = RETURN_PATH_MESSAGES[type];
    const [leastBytes, mostBytes] = hasBlock
      ? [payloadBytes + 2, payloadBytes + 256]
      : [payloadBytes, payloadBytes];
    if (lengthBytes < leastBytes || lengthBytes > mostBytes) {
      const required = hasBlock ? `${leastBytes} to ${mostBytes}` : `${payloadBytes}`;
      throw this.#error('BAD_LENGTH', `Length of ${name} must be ${required}, got ${lengthBytes}`, 2);
    }
    if (type === ReturnPathType.SWITCHOVER_ACK) {
      this.#expect('header', RETURN_PATH_HEADER_BYTES);
      return { type: 'switchover-ack' };
    }
    this.#type = type;
    this.#expect('payload', lengthBytes);
    return null;
  }

  /** The message in the payload, or null for RECV_BITMAP, whose bitmap is still to come. */
  #decodePayload(): ReturnPathMessage | null {
    switch (this.#type) {
      case ReturnPathType.SHUT:
        return { type: 'shut', status: this.#view.getUint32(0) };
      case ReturnPathType.PONG:
        return { type: 'pong', value: this.#view.getUint32(0) };
      case ReturnPathType.REQ_PAGES_ID:
        this.#requestIdstr = this.#blockName(12);
        return this.#decodeRequest(this.#requestIdstr);
      case ReturnPathType.REQ_PAGES:
        if (this.#requestIdstr === null) {
          throw this.#error('BAD_MESSAGE', 'REQ_PAGES came before any REQ_PAGES_ID named a block', 0);
        }
        return this.#decodeRequest(this.#requestIdstr);
      case ReturnPathType.RECV_BITMAP:
        this.#bitmapIdstr = this.#blockName(0);
        return null;
      default:
        return this.#decodeResumeAck();
    }
  }

  #decodeRequest(idstr: string): ReturnPathMessage {
    const start = this.#view.getBigUint64(0);
    const lengthBytes = this.#view.getUint32(8);
    if (start > BigInt(Number.MAX_SAFE_INTEGER) || start % BigInt(TARGET_PAGE_BYTES) !== 0n) {
      throw this.#error(
        'OUT_OF_RANGE',
        `Start of a page request must be a multiple of ${TARGET_PAGE_BYTES} below 2^53, got 0x${start.toString(16)} in "${idstr}"`,
        0,
      );
    }
    if (lengthBytes === 0 || lengthBytes % TARGET_PAGE_BYTES !== 0) {
      throw this.#error(
        'OUT_OF_RANGE',
        `Length of a page request must be a positive multiple of ${TARGET_PAGE_BYTES}, got ${lengthBytes} in "${idstr}"`,
        8,
      );
    }
    return { type: 'req-pages', idstr, start: Number(start), lengthBytes };
  }

  #decodeResumeAck(): ReturnPathMessage {
    const value = this.#view.getUint32(0);
    if (value !== RESUME_ACK_VALUE) {
      throw this.#error('BAD_VALUE', `RESUME_ACK must be ${RESUME_ACK_VALUE}, got ${value}`, 0);
    }
    return { type: 'resume-ack' };
  }

  #decodeBitmapSize(): void {
    const sizeBytes = this.#view.getBigUint64(0);
    const what = `Size of the received bitmap of "${this.#bitmapIdstr}" must be`;
    if (sizeBytes > BigInt(this.#maxBitmapBytes)) {
      throw this.#error('LIMIT', `${what} at most ${this.#maxBitmapBytes}, got ${sizeBytes}`, 0);
    }
    if (sizeBytes === 0n || sizeBytes % 8n !== 0n) {
      throw this.#error('BAD_LENGTH', `${what} a positive multiple of 8, got ${sizeBytes}`, 0);
    }
    if (this.#keepsBitmaps) this.#bitmap = new CollectedBytes(Number(sizeBytes));
    else this.#skippedBitmapBytes = Number(sizeBytes);
    this.#expect('bitmap', 0);
  }

  #decodeBitmapEnd(): ReturnPathMessage {
    const mark = this.#view.getBigUint64(0);
    if (mark !== RECV_BITMAP_END_MARK) {
      throw this.#error(
        'BAD_VALUE',
        `End mark of the received bitmap of "${this.#bitmapIdstr}" must be 0x${RECV_BITMAP_END_MARK.toString(16)}, got 0x${mark.toString(16)}`,
        0,
      );
    }
    this.#expect('header', RETURN_PATH_HEADER_BYTES);
    const { bytes: bitmap } = this.#bitmap;
    this.#bitmap = new CollectedBytes(0);
    return { type: 'recv-bitmap', idstr: this.#bitmapIdstr, bitmap };
  }

  /** The cstr that fills the payload from `position` on. */
  #blockName(position: number): string {
    const lengthBytes = this.#piece[position]!;
    const roomBytes = this.#needBytes - position - 1;
    if (lengthBytes !== roomBytes) {
      throw this.#error(
        'BAD_LENGTH',
        `Length of the block name must be ${roomBytes}, got ${lengthBytes}`,
        position,
      );
    }
    return asciiText(this.#piece, position + 1, this.#needBytes);
  }

  #error(code: StreamErrorCode, what: string, position: number): StreamError {
    return new StreamError(code, what, this.#pieceAt + position, 'return path');
  }
}
