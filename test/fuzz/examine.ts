/**
 * Runs an input through a target, twice with the bytes cut up in different ways, and holds what happens against what was
 * promised.
 */
import type { Random } from '../simulation/random.ts';
import { AllocationMeter } from './allocation-meter.ts';
import { type Piece, segmentsOf } from './piece.ts';
import { BrokenPromise, type Run, type Target } from './target.ts';

/** What became of an input. */
export interface Verdict {
  /** The rule that was broken, or undefined. */
  readonly broken: string | undefined;
  /** What kinds of things happened: a new one makes an input worth keeping. */
  readonly signature: ReadonlySet<string>;
  readonly inputBytes: number;
  readonly refusal: string | undefined;
}

/** No text for a person is longer: a peer could fill a terminal, or a log. */
const MOST_TEXT_CHARACTERS = 4000;
/** A run that takes so long hangs, as far as a person can tell. */
const HANG_MS = 20_000;

interface Told {
  readonly story: readonly string[];
  readonly refusal: string | undefined;
  readonly broken: string | undefined;
}

export async function examine(target: Target, pieces: readonly Piece[], random: Random): Promise<Verdict> {
  const segments = segmentsOf(pieces);
  const inputBytes = segments.reduce((sum, { bytes }) => sum + bytes.length, 0);
  const whole = await tell(target, segments, inputBytes, () => Number.MAX_SAFE_INTEGER);
  let broken = whole.broken;
  if (broken === undefined) {
    const cuts = cutsOf(random, inputBytes);
    const cut = await tell(target, segments, inputBytes, cuts);
    broken = cut.broken ?? (target.heedsCuts ? undefined : difference(whole, cut));
  }
  const signature = new Set(whole.story.map(generalised));
  if (whole.refusal !== undefined) signature.add(generalised(whole.refusal));
  return { broken, signature, inputBytes, refusal: whole.refusal };
}

/** Byte by byte, in packets, or anything. */
function cutsOf(random: Random, inputBytes: number): () => number {
  const most = random.pick(inputBytes < 5000 ? [1, 3, 100, 5000] : [40, 700, 5000, 30_000]);
  return () => random.integer(1, most);
}

async function tell(
  target: Target,
  segments: Run['segments'],
  inputBytes: number,
  nextCut: () => number,
): Promise<Told> {
  const story: string[] = [];
  const run: Run = {
    segments,
    bytes: Uint8Array.from(Buffer.concat(segments.map(({ bytes }) => bytes))),
    nextCut,
    say: (what) => story.push(what),
  };
  const meter = new AllocationMeter();
  const startedAtMs = performance.now();
  let refusal: string | undefined;
  let broken: string | undefined;
  try {
    await meter.run(() => target.run(run));
  } catch (error) {
    if (!(error instanceof Error)) broken = `it throws ${String(error)}`;
    else if (error instanceof BrokenPromise) broken = error.message;
    else {
      refusal = `${error.name}: ${error.message}`;
      broken = whyNoRefusal(target, error, segments);
    }
  }
  broken ??= tooMuch(target, meter, story.length, inputBytes);
  const tookMs = performance.now() - startedAtMs;
  if (tookMs > HANG_MS) broken ??= `it takes ${Math.round(tookMs)} ms`;
  return { story, refusal, broken };
}

function whyNoRefusal(target: Target, error: Error, segments: Run['segments']): string | undefined {
  const isOurs =
    target.refusals.includes(error.name) && !['TypeError', 'RangeError', 'Error'].includes(error.name);
  if (!isOurs) return `it throws ${error.stack ?? error.message}`;
  return whyBadText(error.message) ?? whyBadPlace(error, segments);
}

/** Whether a text may be shown: a peer's bytes must not move a cursor, nor fill a screen. */
export function whyBadText(text: string): string | undefined {
  if (text.length > MOST_TEXT_CHARACTERS) return `a text of ${text.length} characters: ${text.slice(0, 100)}`;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: it is what is looked for
  return /[\x00-\x1f\x7f-\x9f\u2028\u202e]/.test(text) ? `unprintable: ${JSON.stringify(text)}` : undefined;
}

function whyBadPlace(error: Error, segments: Run['segments']): string | undefined {
  if (error.name !== 'StreamError') return undefined;
  const { at, message } = error as Error & { readonly at: number };
  const [, name, place] = /\((stream|package|return path) byte (\d+)\)$/.exec(message) ?? [];
  if (name === undefined || Number(place) !== at) return `no place in "${message}"`;
  const channel = name === 'return path' ? 'return' : 'stream';
  const longest = segments
    .filter((segment) => segment.channel === channel)
    .reduce((sum, { bytes }) => sum + bytes.length, 0);
  return Number.isSafeInteger(at) && at >= 0 && at <= longest
    ? undefined
    : `byte ${at} of ${longest} in "${message}"`;
}

function tooMuch(
  target: Target,
  meter: AllocationMeter,
  steps: number,
  inputBytes: number,
): string | undefined {
  const largest = target.largestBytes(inputBytes);
  if (meter.largestBytes > largest)
    return `it takes ${meter.largestBytes} bytes at once for ${inputBytes}, at most ${largest} are promised`;
  const allocated = target.allocatedBytes(inputBytes);
  if (meter.allocatedBytes > allocated)
    return `it takes ${meter.allocatedBytes} bytes for ${inputBytes}, at most ${allocated} are promised`;
  const mostSteps = (target.steps ?? ((bytes) => bytes + 1000))(inputBytes);
  return steps > mostSteps ? `${steps} steps for ${inputBytes} bytes, at most ${mostSteps}` : undefined;
}

function difference(whole: Told, cut: Told): string | undefined {
  if (whole.refusal !== cut.refusal)
    return `cut up it ends otherwise: ${whole.refusal} in one piece, ${cut.refusal} in several`;
  const index = whole.story.findIndex((line, at) => line !== cut.story[at]);
  if (index < 0 && whole.story.length === cut.story.length) return undefined;
  const at = index < 0 ? whole.story.length : index;
  return `cut up it is otherwise from step ${at} on: ${whole.story[at]} in one piece, ${cut.story[at]} in several`;
}

/** A line without what differs from input to input. */
function generalised(line: string): string {
  return line
    .replace(/(["'])(?:(?!\1).)*\1/g, '""')
    .replace(/0x[0-9a-f]+|\d+(:[0-9a-f]+)?/g, '#')
    .slice(0, 200);
}
