/**
 * What a fuzzed input is made of: pieces with a meaning, so that one can be dropped, doubled or moved as a whole, and the
 * numbers in them, which can be changed where they stand.
 *
 * Pieces go to a channel. Those of `event` are no bytes but something that happens: a connection breaks, a machine answers.
 */
export type ChannelName = 'stream' | 'return' | 'event';

/** A big-endian number in a piece. */
export interface NumberField {
  readonly at: number;
  readonly sizeBytes: number;
}

export interface Piece {
  readonly kind: string;
  readonly channel: ChannelName;
  readonly bytes: Uint8Array;
  readonly fields: readonly NumberField[];
  /** What follows the bytes, as long as the field `lengthAt` says: a package. */
  readonly children?: readonly Piece[];
  /** Where in `bytes` the be32 length of the children stands; absent if it was changed and is wrong. */
  readonly lengthAt?: number;
}

/** Consecutive bytes of a channel, or an event. */
export interface Segment {
  readonly channel: ChannelName;
  readonly kind: string;
  readonly bytes: Uint8Array;
}

/** Writes a piece field by field. */
export class PieceWriter {
  readonly #parts: Uint8Array[] = [];
  readonly #fields: NumberField[] = [];
  #length = 0;

  number(value: number | bigint, sizeBytes: number): this {
    const bytes = new Uint8Array(sizeBytes);
    let rest = BigInt(value);
    for (let index = sizeBytes - 1; index >= 0; index--) {
      bytes[index] = Number(rest & 0xffn);
      rest >>= 8n;
    }
    this.#fields.push({ at: this.#length, sizeBytes });
    return this.raw(bytes);
  }

  raw(bytes: Uint8Array | string): this {
    const part = typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes;
    this.#parts.push(part);
    this.#length += part.length;
    return this;
  }

  cstr(text: string): this {
    return this.number(text.length, 1).raw(text);
  }

  piece(kind: string, channel: ChannelName = 'stream'): Piece {
    return { kind, channel, bytes: Uint8Array.from(Buffer.concat(this.#parts)), fields: this.#fields };
  }
}

export function rawPiece(kind: string, bytes: Uint8Array, channel: ChannelName = 'stream'): Piece {
  return { kind, channel, bytes, fields: [] };
}

export function eventPiece(kind: string): Piece {
  return { kind, channel: 'event', bytes: new Uint8Array(0), fields: [] };
}

/** All bytes of a piece, those of its children included. */
export function bytesOf(piece: Piece): Uint8Array {
  if (piece.children === undefined) return piece.bytes;
  const content = Buffer.concat(piece.children.map(bytesOf));
  const head = Buffer.from(piece.bytes);
  if (piece.lengthAt !== undefined) head.writeUInt32BE(content.length, piece.lengthAt);
  return Buffer.concat([head, content]);
}

/** The pieces as they come in: neighbours of one channel are one. */
export function segmentsOf(pieces: readonly Piece[]): Segment[] {
  const segments: { channel: ChannelName; kind: string; parts: Uint8Array[] }[] = [];
  for (const piece of pieces) {
    const last = segments.at(-1);
    if (piece.channel !== 'event' && last?.channel === piece.channel) last.parts.push(bytesOf(piece));
    else segments.push({ channel: piece.channel, kind: piece.kind, parts: [bytesOf(piece)] });
  }
  return segments.map(({ channel, kind, parts }) => ({
    channel,
    kind,
    bytes: Uint8Array.from(Buffer.concat(parts)),
  }));
}
