/**
 * What is fuzzed: something that takes bytes of a peer, and what it promises about them.
 */
import type { Random } from '../simulation/random.ts';
import type { Piece, Segment } from './piece.ts';

export interface Target {
  readonly name: string;
  /** Legal inputs. */
  readonly seeds: () => readonly (readonly Piece[])[];
  /** An input that is not legal here, but may lend its pieces. */
  readonly donors?: () => readonly Piece[];
  /** What may happen besides, at any moment. */
  readonly events?: readonly string[];
  /** Names of the errors that it may refuse an input with. */
  readonly refusals: readonly string[];
  /** Of memory that is taken at once, and of all that is taken while an input of so many bytes comes in. */
  readonly largestBytes: (inputBytes: number) => number;
  readonly allocatedBytes: (inputBytes: number) => number;
  /** Calls and other steps that may be told of an input of so many bytes. */
  readonly steps?: (inputBytes: number) => number;
  /** Whether how the bytes are cut up may change what comes of them; false by default. */
  readonly heedsCuts?: boolean;
  /** Changes an input after it was mutated: puts a checksum right, for one. */
  readonly mend?: (pieces: readonly Piece[], random: Random) => readonly Piece[];
  /** Takes an input. Throws the refusal, or whatever it should not. */
  readonly run: (run: Run) => void | Promise<void>;
}

/** One run of an input. */
export interface Run {
  readonly segments: readonly Segment[];
  /** All bytes of all segments. */
  readonly bytes: Uint8Array;
  /** How many bytes come at once, at least 1; asked for again and again. */
  readonly nextCut: () => number;
  /** Tells what happened; it must be the same for any cuts. */
  say(what: string): void;
}

/** A rule that a target broke; the text says which. */
export class BrokenPromise extends Error {
  override readonly name = 'BrokenPromise';
}

/** The bytes in pieces as they are to come. */
export function* cutUp(bytes: Uint8Array, run: Run): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; ) {
    const piece = bytes.subarray(at, at + run.nextCut());
    yield piece;
    at += piece.length;
  }
}

/** Puts bytes through something that is read into, in the pieces that the run asks for. */
export function feed(
  bytes: Uint8Array,
  run: Run,
  { free, received }: { readonly free: () => Uint8Array; readonly received: (countBytes: number) => boolean },
): void {
  for (let at = 0; at < bytes.length; ) {
    const room = free();
    if (room.length === 0) throw new BrokenPromise('there is no room to read into');
    const some = bytes.subarray(at, at + Math.min(room.length, run.nextCut()));
    room.set(some);
    at += some.length;
    if (!received(some.length)) return;
  }
}

/** A short stand-in for bytes, by which two are compared. */
export function digest(bytes: Uint8Array): string {
  let hash = 0x811c9dc5;
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193);
  return `${bytes.length}:${(hash >>> 0).toString(16)}`;
}
