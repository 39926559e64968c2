/**
 * Changes pieces as a seed decides: in their order, in their numbers, in their bytes.
 */
import type { Random } from '../simulation/random.ts';
import { eventPiece, type NumberField, type Piece } from './piece.ts';

/** Values at which lengths, counts, flags and addresses go wrong. */
const EDGES: readonly bigint[] = [
  0n,
  1n,
  2n,
  3n,
  4n,
  5n,
  7n,
  8n,
  0x10n,
  0x20n,
  0x28n,
  0x40n,
  0x7en,
  0x7fn,
  0x80n,
  0xffn,
  0x100n,
  0x200n,
  0xfffn,
  0x1000n,
  0x1004n,
  0x1008n,
  0x2000n,
  0x7fffn,
  0xffffn,
  0x10000n,
  0x100000n,
  0x200000n,
  0x7fffffffn,
  0x80000000n,
  0xfffff000n,
  0xffffffffn,
  0x100000000n,
  0x10000000000n,
  0x1fffffffffffffn,
  0x20000000000000n,
  0x7ffffffffffff000n,
  0x8000000000000000n,
  0xfffffffffffff000n,
  0xffffffffffffffffn,
];
const MOST_CHANGES = 5;
const MOST_REPEATS = 40;
/** An input does not grow beyond this many pieces. */
const MOST_PIECES = 4000;

/** @param donors other inputs, from which pieces may be taken @param events that may happen at any moment */
export function mutate(
  pieces: readonly Piece[],
  random: Random,
  donors: readonly (readonly Piece[])[],
  events: readonly string[] = [],
): readonly Piece[] {
  let changed = pieces;
  const changes = 1 + Math.floor(random.skewed(MOST_CHANGES));
  for (let change = 0; change < changes; change++) changed = mutateOnce(changed, random, donors, events);
  return changed.slice(0, MOST_PIECES);
}

function mutateOnce(
  pieces: readonly Piece[],
  random: Random,
  donors: readonly (readonly Piece[])[],
  events: readonly string[],
): readonly Piece[] {
  const index = random.integer(0, Math.max(0, pieces.length - 1));
  const piece = pieces[index];
  if (piece === undefined) return splice(pieces, 0, 0, someOf(random.pick(donors), random));
  if (events.length > 0 && random.chance(0.15))
    return splice(pieces, random.integer(0, pieces.length), 0, [eventPiece(random.pick(events))]);
  if (piece.children !== undefined && random.chance(0.7)) {
    const children = mutateOnce(piece.children, random, donors, []);
    return splice(pieces, index, 1, [{ ...piece, children }]);
  }
  switch (random.integer(0, 13)) {
    case 0:
      return splice(pieces, index, random.integer(1, 1 + Math.floor(random.skewed(8))), []);
    case 1:
      return splice(pieces, index, 0, [piece]);
    case 2: {
      const repeated = Array.from({ length: random.integer(2, MOST_REPEATS) }, () => piece);
      return splice(pieces, index, 0, repeated);
    }
    case 3: {
      const without = splice(pieces, index, 1, []);
      return splice(without, random.integer(0, without.length), 0, [piece]);
    }
    case 4:
      return splice(pieces, index, 0, someOf(random.pick(donors), random));
    case 5: {
      const donor = random.pick(donors);
      return [...pieces.slice(0, index), ...donor.slice(random.integer(0, donor.length))];
    }
    case 6:
      return [...pieces.slice(0, index), ...withBytes(piece, cut(piece.bytes, random))];
    case 7: {
      const children = pieces.slice(index, index + random.integer(1, 6));
      const shell = pieces.find((each) => each.children !== undefined) ?? piece;
      return splice(pieces, index, children.length, [{ ...shell, children }]);
    }
    case 8:
      return splice(pieces, index, 1, withBytes(piece, mixBytes(piece.bytes, random)));
    default:
      return piece.fields.length === 0
        ? splice(pieces, index, 1, withBytes(piece, mixBytes(piece.bytes, random)))
        : splice(pieces, index, 1, [changeNumber(piece, random)]);
  }
}

function splice(
  pieces: readonly Piece[],
  index: number,
  removed: number,
  added: readonly Piece[],
): readonly Piece[] {
  return [...pieces.slice(0, index), ...added, ...pieces.slice(index + removed)];
}

/** A few pieces that follow one another. */
function someOf(pieces: readonly Piece[], random: Random): readonly Piece[] {
  const from = random.integer(0, Math.max(0, pieces.length - 1));
  return pieces.slice(from, from + 1 + Math.floor(random.skewed(12)));
}

function changeNumber(piece: Piece, random: Random): Piece {
  const field = random.pick(piece.fields);
  const bytes = Uint8Array.from(piece.bytes);
  writeNumber(bytes, field, changedValue(readNumber(bytes, field), random));
  const { lengthAt, ...rest } = piece;
  return { ...rest, bytes, ...(lengthAt !== undefined && lengthAt !== field.at && { lengthAt }) };
}

function changedValue(value: bigint, random: Random): bigint {
  switch (random.integer(0, 5)) {
    case 0:
      return value + BigInt(random.integer(-2, 2));
    case 1:
      return value ^ (1n << BigInt(random.integer(0, 63)));
    case 2:
      return value + BigInt(random.integer(-64, 64)) * 4096n;
    case 3:
      return value ^ (1n << BigInt(random.integer(0, 11)));
    default:
      return random.pick(EDGES);
  }
}

function readNumber(bytes: Uint8Array, { at, sizeBytes }: NumberField): bigint {
  let value = 0n;
  for (let index = 0; index < sizeBytes; index++) value = (value << 8n) | BigInt(bytes[at + index] ?? 0);
  return value;
}

function writeNumber(bytes: Uint8Array, { at, sizeBytes }: NumberField, value: bigint): void {
  let rest = BigInt.asUintN(sizeBytes * 8, value);
  for (let index = sizeBytes - 1; index >= 0; index--) {
    bytes[at + index] = Number(rest & 0xffn);
    rest >>= 8n;
  }
}

/** The fields stand elsewhere then, but where they are still tells where numbers may be. */
function withBytes(piece: Piece, bytes: Uint8Array): readonly Piece[] {
  if (piece.channel === 'event') return [piece];
  const fields = piece.fields.filter(({ at, sizeBytes }) => at + sizeBytes <= bytes.length);
  const { lengthAt, ...rest } = piece;
  const keepsLength = lengthAt !== undefined && lengthAt + 4 <= bytes.length;
  return [{ ...rest, bytes, fields, ...(keepsLength && { lengthAt }) }];
}

function cut(bytes: Uint8Array, random: Random): Uint8Array {
  return bytes.slice(0, random.integer(0, bytes.length));
}

function mixBytes(bytes: Uint8Array, random: Random): Uint8Array {
  const at = random.integer(0, Math.max(0, bytes.length - 1));
  const length = 1 + Math.floor(random.skewed(64));
  const changed = Uint8Array.from(bytes);
  switch (random.integer(0, 5)) {
    case 0:
      changed[at] = (changed[at] ?? 0) ^ (1 << random.integer(0, 7));
      return changed;
    case 1:
      changed[at] = random.pick([0, 1, 0x20, 0x22, 0x5c, 0x7b, 0x7f, 0x80, 0xc3, 0xfe, 0xff, 0x1b, 0x0a]);
      return changed;
    case 2:
      return Uint8Array.from([...bytes.slice(0, at), ...bytes.slice(at + length)]);
    case 3: {
      const added = Array.from({ length }, () => random.integer(0, 255));
      return Uint8Array.from([...bytes.slice(0, at), ...added, ...bytes.slice(at)]);
    }
    case 4: {
      const copied = bytes.slice(at, at + length);
      return Uint8Array.from([...bytes.slice(0, at), ...copied, ...bytes.slice(at)]);
    }
    default:
      changed.copyWithin(random.integer(0, Math.max(0, bytes.length - 1)), at, at + length);
      return changed;
  }
}
