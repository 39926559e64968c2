/** Legal inputs that several targets begin with. */
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { ByteWriter } from '../../../src/wire/byte-writer.ts';
import { encodeCommand, encodeRecvBitmapCommand, MigrationCommand } from '../../../src/wire/commands.ts';
import {
  concatenate,
  eof,
  pages,
  postcopyStream,
  precopyStream,
  RAM_SECTION_ID,
  ramEnd,
  ramEosAndFooter,
  ramPart,
} from '../../../src/wire/example-stream.ts';
import { writeFileHeader } from '../../../src/wire/sections.ts';
import { type Piece, PieceWriter, rawPiece } from '../piece.ts';
import { splitStream } from '../split-stream.ts';

/** Captured from QEMU 7.2, most of their pages left out; `make-seed.ts` makes them. */
export const capturedPrecopy = once(() => splitStream(captured('qemu-7.2-precopy')));
export const capturedPostcopy = once(() => splitStream(captured('qemu-7.2-postcopy')));

export const examplePrecopy = once(() => splitStream(precopyStream));
export const examplePostcopy = once(() => splitStream(postcopyStream, ['huge']));
export const exampleRecovery = once(() =>
  splitStream(
    concatenate(
      encodeRecvBitmapCommand('pc.ram'),
      encodeRecvBitmapCommand('huge'),
      encodeCommand(MigrationCommand.POSTCOPY_RESUME),
      ramPart,
      pages,
      ramEosAndFooter,
      ramEnd,
      eof,
    ),
  ),
);

/** With deltas, which only those take who look on. */
export const deltas = once((): Piece[] => {
  const [header, ...rest] = examplePrecopy();
  const delta = new PieceWriter()
    .number(0x1000 + 0x40, 8)
    .cstr('pc.ram')
    .number(1, 1)
    .number(8, 2)
    .raw(Uint8Array.of(5, 2, 1, 2, 0x80, 8, 1, 3))
    .piece('record 64');
  const at = rest.findIndex(({ kind }) => kind === 'record 8');
  return [header as Piece, ...rest.slice(0, at + 1), delta, ...rest.slice(at + 1)];
});

const MAPPED_BLOCKS = [
  { idstr: 'pc.ram', pages: 70, content: [0, 5, 69] },
  { idstr: 'rom', pages: 1, content: [0] },
] as const;

/** A mapped-ram file as small as QEMU may read one: pages right behind the bitmap. */
export const mappedRam = once((): Piece[] => {
  const header = new ByteWriter(new Uint8Array(200));
  writeFileHeader(header, 'pc-1', ['mapped-ram']);
  const pieces = splitStream(header.subarray());
  const add = (piece: Piece) => pieces.push(piece);
  add(
    new PieceWriter()
      .number(1, 1)
      .number(RAM_SECTION_ID, 4)
      .cstr('ram')
      .number(0, 4)
      .number(4, 4)
      .piece('ram 1'),
  );
  const totalPages = MAPPED_BLOCKS.reduce((sum, { pages: count }) => sum + count, 0);
  add(new PieceWriter().number(totalPages * 4096 + 4, 8).piece('mem-size'));
  for (const { idstr, pages: count, content } of MAPPED_BLOCKS) {
    const at = pieces.reduce((sum, { bytes }) => sum + bytes.length, 0);
    const bitmap = new Uint8Array(Math.ceil(count / 64) * 8);
    for (const page of content) bitmap[page >> 3] = (bitmap[page >> 3] as number) | (1 << (page & 7));
    const bitmapAt = at + 1 + idstr.length + 8 + 28;
    const pagesAt = Math.ceil((bitmapAt + bitmap.length) / 4096) * 4096;
    add(
      new PieceWriter()
        .cstr(idstr)
        .number(count * 4096, 8)
        .number(1, 4)
        .number(4096, 8)
        .number(bitmapAt, 8)
        .number(pagesAt, 8)
        .piece('block'),
    );
    add(rawPiece('bitmap', bitmap));
    add(rawPiece('gap', new Uint8Array(pagesAt - bitmapAt - bitmap.length)));
    add(rawPiece('pages', new Uint8Array(count * 4096).fill(0x5a)));
  }
  add(new PieceWriter().number(0x10, 8).piece('eos'));
  add(new PieceWriter().number(0x7e, 1).number(RAM_SECTION_ID, 4).piece('footer'));
  return [...pieces, ...splitStream(ramEnd), ...tailOf(capturedPrecopy())];
});

/** Device state, EOF and description. */
export function tailOf(pieces: readonly Piece[]): readonly Piece[] {
  return pieces.slice(pieces.findIndex(({ kind }) => kind === 'device'));
}

function captured(name: string): Uint8Array {
  return gunzipSync(readFileSync(`test/fuzz/seeds/${name}.gz`));
}

export function once<Result>(make: () => Result): () => Result {
  let made: Result | undefined;
  return () => (made ??= make());
}
