/**
 * Whether precopy gets anywhere: would another round leave less than this one did?
 *
 * In a round the guest dirties `dirty rate × (remaining ÷ bandwidth)` bytes: that is what the next round begins with. If it is
 * near what this one began with, or above, rounds only cost time. Two things tell: the rates, as soon as they are measured,
 * and what the last rounds really began with, whatever the rates say.
 */

/** At the beginning of a round: dirty memory has just been counted. */
export interface Round {
  /** 1 is the first, which begins with all memory. */
  readonly pass: number;
  readonly remainingBytes: number;
  /** What the guest dirtied lately; 0 if that has not been measured yet. */
  readonly dirtyBytesPerSecond: number;
  /** What the stream carried lately; 0 if that has not been measured yet. */
  readonly bytesPerSecond: number;
}

export type Judgement =
  | { readonly verdict: 'go-on' }
  /** `why` is for people. */
  | { readonly verdict: 'switch'; readonly why: string };

/** A round that shrinks what remains to less than this part of it is worth its time. */
export const WORTHWHILE_SHRINK = 0.7;

/** By this many rounds in a row without shrinking, it is no accident. */
const ROUNDS_IN_A_ROW = 2;

/** After so many rounds what remains only hovers above the limit, however nicely it shrank now and then. */
export const MAX_ROUNDS = 30;

/**
 * @param rounds those so far, oldest first; none may be missing at the end
 * @param downtimeLimitMs precopy ends by itself when what remains fits in that
 */
export function judgeConvergence(rounds: readonly Round[], downtimeLimitMs: number): Judgement {
  const last = rounds.at(-1);
  // The first round has to be made anyhow: it is what postcopy would send too.
  if (last === undefined || last.pass < 2) return { verdict: 'go-on' };
  const { remainingBytes, bytesPerSecond, dirtyBytesPerSecond } = last;
  if (remainingBytes <= (bytesPerSecond * downtimeLimitMs) / 1000) return { verdict: 'go-on' };

  if (bytesPerSecond > 0 && dirtyBytesPerSecond >= WORTHWHILE_SHRINK * bytesPerSecond) {
    const percent = Math.round((dirtyBytesPerSecond / bytesPerSecond) * 100);
    return { verdict: 'switch', why: `the guest writes at ${percent} % of the rate that memory is sent at` };
  }
  const before = rounds.slice(-1 - ROUNDS_IN_A_ROW);
  const isStuck =
    before.length > ROUNDS_IN_A_ROW &&
    before.every((round, index) => {
      const previous = before[index - 1];
      return previous === undefined || round.remainingBytes > WORTHWHILE_SHRINK * previous.remainingBytes;
    });
  if (isStuck) return { verdict: 'switch', why: `what remains has not shrunk in ${ROUNDS_IN_A_ROW} rounds` };
  if (last.pass > MAX_ROUNDS) return { verdict: 'switch', why: `${MAX_ROUNDS} rounds were not enough` };
  return { verdict: 'go-on' };
}
