/**
 * Fuzzes a target: inputs that lead to something new are kept and changed further.
 *
 * An input is named by the numbers that made it, such as `17.42.93`: 17 picks a legal input and changes it, 42 changes what
 * came of that, and so on. The name alone makes the input again, whatever was tried before.
 */
import { Random } from '../simulation/random.ts';
import { examine, type Verdict } from './examine.ts';
import { mutate } from './mutate.ts';
import type { Piece } from './piece.ts';
import type { Target } from './target.ts';

export interface Finding {
  readonly target: string;
  /** Makes the input again. */
  readonly seed: string;
  readonly broken: string;
}

export interface FuzzReport {
  readonly inputs: number;
  readonly bytes: number;
  readonly accepted: number;
  /** Kinds of things that were seen to happen. */
  readonly kinds: number;
  readonly findings: readonly Finding[];
}

export interface FuzzOptions {
  readonly firstSeed: number;
  /** Asked before each input. */
  readonly goOn: (inputs: number) => boolean;
  readonly mostFindings?: number;
  readonly onFinding?: (finding: Finding) => void;
}

/** So often a kept input is changed further, rather than a legal one. */
const KEPT_CHANCE = 0.6;
const MOST_KEPT = 400;
const MOST_CHANGES = 12;

export async function fuzz(target: Target, options: FuzzOptions): Promise<FuzzReport> {
  const { firstSeed, goOn, mostFindings = 3, onFinding = () => {} } = options;
  const seen = new Set<string>();
  const kept: { readonly seed: string; readonly pieces: readonly Piece[] }[] = [];
  const findings: Finding[] = [];
  const known = new Set<string>();
  let [inputs, bytes, accepted] = [0, 0, 0];
  for (const pieces of target.seeds()) {
    const { broken, signature, refusal } = await examine(target, mended(target, pieces, 0), new Random(0));
    const why = broken ?? (refusal === undefined ? undefined : `a legal input is refused: ${refusal}`);
    if (why !== undefined) findings.push({ target: target.name, seed: 'none', broken: why });
    for (const kind of signature) seen.add(kind);
  }
  while (findings.length < mostFindings && goOn(inputs)) {
    const number = firstSeed + inputs++;
    const random = new Random(number);
    const parent = kept.length > 0 && random.chance(KEPT_CHANCE) ? random.pick(kept) : undefined;
    const seed = parent === undefined ? `${number}` : `${parent.seed}.${number}`;
    const pieces = changed(target, parent?.pieces, number);
    const verdict = await examine(target, mended(target, pieces, number), new Random(number + 1));
    bytes += verdict.inputBytes;
    if (verdict.refusal === undefined) accepted++;
    if (verdict.broken !== undefined) {
      const kind = verdict.broken.split('\n')[0]!.replace(/\d+/g, '#').slice(0, 80);
      if (known.has(kind)) continue;
      known.add(kind);
      const finding = { target: target.name, seed, broken: verdict.broken };
      findings.push(finding);
      onFinding(finding);
      continue;
    }
    const isNew = [...verdict.signature].filter((kind) => !seen.has(kind));
    for (const kind of isNew) seen.add(kind);
    if (isNew.length === 0 || seed.split('.').length > MOST_CHANGES) continue;
    if (kept.length === MOST_KEPT) kept.splice(random.integer(0, kept.length - 1), 1);
    kept.push({ seed, pieces });
  }
  return { inputs, bytes, accepted, kinds: seen.size, findings };
}

/** Runs one input again, by its name. */
export async function replay(target: Target, seed: string): Promise<Verdict> {
  const { pieces, last } = inputOf(target, seed);
  return await examine(target, pieces, new Random(last + 1));
}

export function inputOf(target: Target, seed: string): { pieces: readonly Piece[]; last: number } {
  let pieces: readonly Piece[] | undefined;
  let last = 0;
  for (const part of seed.split('.')) {
    last = Number(part);
    pieces = changed(target, pieces, last);
  }
  return { pieces: mended(target, pieces as readonly Piece[], last), last };
}

function changed(target: Target, pieces: readonly Piece[] | undefined, number: number): readonly Piece[] {
  const random = new Random(number ^ 0x5eed);
  const seeds = target.seeds();
  const donors = target.donors === undefined ? seeds : [...seeds, target.donors()];
  return mutate(pieces ?? random.pick(seeds), random, donors, target.events);
}

function mended(target: Target, pieces: readonly Piece[], number: number): readonly Piece[] {
  return target.mend?.(pieces, new Random(number ^ 0x3e4d)) ?? pieces;
}
