/**
 * Takes legal streams apart into pieces: those of real sources, and what our own encoders make.
 *
 * A second, plain reader of the format, which trusts what it reads: it is given only what is legal.
 */
import { decodeVmDescription } from '../../src/wire/device-walk.ts';
import { type Piece, PieceWriter, rawPiece } from './piece.ts';

const FLAG_ZERO = 0x02;
const FLAG_MEM_SIZE = 0x04;
const FLAG_PAGE = 0x08;
const FLAG_EOS = 0x10;
const FLAG_CONTINUE = 0x20;
const FLAG_XBZRLE = 0x40;
const PAGE_BYTES = 4096;

/** Host page sizes that follow the length of a block, by its name. */
export type LargePages = readonly string[];

export function splitStream(bytes: Uint8Array, largePages: LargePages = []): Piece[] {
  const reader = new Reader(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength), largePages);
  return reader.stream();
}

/** The messages of a return path. */
export function splitReturnPath(bytes: Uint8Array): Piece[] {
  const reader = new Reader(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength), []);
  return reader.returnPath();
}

class Reader {
  readonly #bytes: Buffer;
  readonly #largePages: LargePages;
  #at = 0;
  readonly #pieces: Piece[] = [];

  constructor(bytes: Buffer, largePages: LargePages) {
    this.#bytes = bytes;
    this.#largePages = largePages;
  }

  stream(): Piece[] {
    if (this.#bytes[0] === 0x51) this.#header();
    while (this.#at < this.#bytes.length) this.#section();
    return this.#pieces;
  }

  returnPath(): Piece[] {
    while (this.#at < this.#bytes.length) {
      const type = this.#bytes.readUInt16BE(this.#at);
      const lengthBytes = this.#bytes.readUInt16BE(this.#at + 2);
      const writer = new PieceWriter();
      this.#copy(writer, 2, 2);
      const end = this.#at + lengthBytes;
      if (type === 3 || type === 4) this.#copy(writer, 8, 4);
      else if (lengthBytes === 4) this.#copy(writer, 4);
      if (this.#at < end) this.#copyCstr(writer);
      if (type === 5) {
        const sizeBytes = Number(this.#bytes.readBigUInt64BE(this.#at));
        this.#copy(writer, 8);
        this.#copyRaw(writer, sizeBytes);
        this.#copy(writer, 8);
      }
      this.#pieces.push(writer.piece(`message ${type}`, 'return'));
    }
    return this.#pieces;
  }

  #header(): void {
    const writer = new PieceWriter();
    this.#copy(writer, 4, 4, 1);
    const nameBytes = this.#bytes.readUInt32BE(this.#at);
    this.#copy(writer, 4);
    this.#copyRaw(writer, nameBytes);
    this.#pieces.push(writer.piece('header'));
    while (this.#bytes[this.#at] === 5) this.#subsection();
  }

  #subsection(): void {
    const writer = new PieceWriter();
    this.#copy(writer, 1);
    const name = this.#copyCstr(writer);
    this.#copy(writer, 4);
    if (name === 'configuration/uuid') this.#copyRaw(writer, 16);
    else {
      let count = this.#bytes.readUInt32BE(this.#at);
      this.#copy(writer, 4);
      while (name === 'configuration/capabilities' && count-- > 0) this.#copyCstr(writer);
    }
    this.#pieces.push(writer.piece('subsection'));
  }

  #section(): void {
    const type = this.#bytes[this.#at];
    switch (type) {
      case 0x08:
        this.#command();
        return;
      case 0x01:
      case 0x02:
      case 0x03:
        this.#ram(type);
        return;
      case 0x04:
        this.#devices();
        return;
      default:
        this.#pieces.push(rawPiece('eof', this.#take(1)));
        if (this.#at < this.#bytes.length) this.#description();
    }
  }

  #command(): void {
    const number = this.#bytes.readUInt16BE(this.#at + 1);
    const payloadBytes = this.#bytes.readUInt16BE(this.#at + 3);
    const writer = new PieceWriter();
    this.#copy(writer, 1, 2, 2);
    const end = this.#at + payloadBytes;
    if (number === 6) {
      this.#copy(writer, 1);
      this.#copyCstr(writer);
      this.#copy(writer, 1);
    } else if (number === 10) this.#copyCstr(writer);
    while (end - this.#at >= 8) this.#copy(writer, 8);
    while (end - this.#at >= 4) this.#copy(writer, 4);
    const piece = writer.piece(`command ${number}`);
    if (number !== 7) {
      this.#pieces.push(piece);
      return;
    }
    const lengthBytes = this.#bytes.readUInt32BE(this.#at - 4);
    const inside = new Reader(this.#bytes.subarray(this.#at, this.#at + lengthBytes), this.#largePages);
    this.#at += lengthBytes;
    this.#pieces.push({ ...piece, kind: 'package', children: inside.stream(), lengthAt: 5 });
  }

  #ram(type: number): void {
    const head = new PieceWriter();
    this.#copy(head, 1, 4);
    if (type === 1) {
      this.#copyCstr(head);
      this.#copy(head, 4, 4);
    }
    this.#pieces.push(head.piece(`ram ${type}`));
    while (this.#bytes[this.#at] !== 0x7e) this.#record();
    const foot = new PieceWriter();
    this.#copy(foot, 1, 4);
    this.#pieces.push(foot.piece('footer'));
  }

  #record(): void {
    const low = this.#bytes.readUInt32BE(this.#at + 4);
    const flags = low & (PAGE_BYTES - 1);
    const writer = new PieceWriter();
    if (flags === FLAG_MEM_SIZE) {
      this.#memSize();
      return;
    }
    this.#copy(writer, 8);
    if (flags === FLAG_EOS || flags === 0x200) {
      this.#pieces.push(writer.piece('eos'));
      return;
    }
    if ((flags & FLAG_CONTINUE) === 0) this.#copyCstr(writer);
    if ((flags & FLAG_ZERO) !== 0) this.#copy(writer, 1);
    if ((flags & FLAG_PAGE) !== 0) this.#copyRaw(writer, PAGE_BYTES);
    if ((flags & FLAG_XBZRLE) !== 0) {
      const lengthBytes = this.#bytes.readUInt16BE(this.#at + 1);
      this.#copy(writer, 1, 2);
      this.#copyRaw(writer, lengthBytes);
    }
    this.#pieces.push(writer.piece(`record ${flags}`));
  }

  #memSize(): void {
    let leftBytes = Number(this.#bytes.readBigUInt64BE(this.#at)) - FLAG_MEM_SIZE;
    const total = new PieceWriter();
    this.#copy(total, 8);
    this.#pieces.push(total.piece('mem-size'));
    while (leftBytes > 0) {
      const block = new PieceWriter();
      const idstr = this.#copyCstr(block);
      leftBytes -= Number(this.#bytes.readBigUInt64BE(this.#at));
      this.#copy(block, 8);
      if (this.#largePages.includes(idstr)) this.#copy(block, 8);
      this.#pieces.push(block.piece('block'));
    }
  }

  /** FULL sections, whose lengths the description tells, or the next of the footers that fits. */
  #devices(): void {
    const described = this.#described();
    for (let index = 0; this.#bytes[this.#at] === 0x04; index++) {
      const start = this.#at;
      const sectionId = this.#bytes.readUInt32BE(start + 1);
      const writer = new PieceWriter();
      this.#copy(writer, 1, 4);
      this.#copyCstr(writer);
      this.#copy(writer, 4, 4);
      const footer = Buffer.from([0x7e, 0, 0, 0, 0]);
      footer.writeUInt32BE(sectionId, 1);
      let end = described === undefined ? this.#at : this.#at + (described[index]?.bodyBytes ?? 0);
      do end = this.#bytes.indexOf(footer, end + (described === undefined ? 1 : 0));
      while (described === undefined && !this.#mayFollow(end + 5));
      this.#copyRaw(writer, end - this.#at);
      this.#copy(writer, 1, 4);
      this.#pieces.push(writer.piece('device'));
    }
  }

  #mayFollow(position: number): boolean {
    const next = this.#bytes[position];
    if (next === 0x04) return /^[!-~]+$/.test(this.#nameAt(position + 5));
    return next === 0x08 ? (this.#bytes[position + 1] as number) === 0 : next === 0 || next === undefined;
  }

  #nameAt(position: number): string {
    return this.#bytes.toString('latin1', position + 1, position + 1 + (this.#bytes[position] ?? 0));
  }

  #described() {
    const begin = this.#bytes.lastIndexOf('{"page_size"');
    if (begin < 0) return undefined;
    return decodeVmDescription(this.#bytes.subarray(begin));
  }

  /** Token by token, so that they can be mixed. */
  #description(): void {
    const writer = new PieceWriter();
    this.#copy(writer, 1, 4);
    const json = this.#bytes.toString('latin1', this.#at);
    this.#at = this.#bytes.length;
    const tokens = json.match(/[{}[\]:,]|"[^"]*"|[^{}[\]:,"]+/g) ?? [];
    const children = tokens.map((token) => rawPiece('token', Buffer.from(token, 'latin1')));
    this.#pieces.push({ ...writer.piece('description'), children, lengthAt: 1 });
  }

  #copy(writer: PieceWriter, ...sizes: number[]): void {
    for (const sizeBytes of sizes) {
      let value = 0n;
      for (const byte of this.#take(sizeBytes)) value = (value << 8n) | BigInt(byte);
      writer.number(value, sizeBytes);
    }
  }

  #copyCstr(writer: PieceWriter): string {
    const text = this.#nameAt(this.#at);
    this.#at += 1 + text.length;
    writer.cstr(text);
    return text;
  }

  #copyRaw(writer: PieceWriter, lengthBytes: number): void {
    writer.raw(this.#take(lengthBytes));
  }

  #take(lengthBytes: number): Uint8Array {
    this.#at += lengthBytes;
    return Uint8Array.from(this.#bytes.subarray(this.#at - lengthBytes, this.#at));
  }
}

/** Leaves all but a few page records out, so that a capture is small: the stream stays legal. */
export function thinOut(pieces: readonly Piece[], keptPerKind: number): Piece[] {
  const counts = new Map<string, number>();
  return pieces.filter(({ kind }) => {
    if (!kind.startsWith('record ')) return true;
    const count = (counts.get(kind) ?? 0) + 1;
    counts.set(kind, count);
    return count <= keptPerKind;
  });
}
