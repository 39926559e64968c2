/**
 * How a migration has ended, and where its guest is now: from what both sides say, in the end, and what was seen on the way.
 *
 * Two rules hold. A guest is let go on at the source only when it cannot run at the destination, now or later. And whatever
 * is not known is left to the operator, with what is known.
 */

export interface SideFacts {
  /** Its process has ended. */
  readonly isGone: boolean;
  /** It owes an answer: what is known of it is old. */
  readonly isSilent: boolean;
  readonly status: string;
  readonly runState: string;
  /** The guest was seen running there. */
  readonly hasRun: boolean;
  readonly errorText?: string | undefined;
}

export interface EndFacts {
  /** The guest ran before the migration. */
  readonly wasRunning: boolean;
  /** A side was seen in postcopy: the guest may be the destination's. */
  readonly hasSwitched: boolean;
  /** Who has cancelled it; the driver does so when the destination has ended and the source does not notice. */
  readonly cancelledBy?: 'operator' | 'driver' | undefined;
  readonly source: SideFacts;
  readonly destination: SideFacts;
}

/** Exit codes of `postcopy migrate`, but for wrong usage, which is 2. */
export const EXIT_CODES = {
  completed: 0,
  failed: 1,
  'not-started': 1,
  cancelled: 3,
  'postcopy-paused': 4,
  interrupted: 5,
  unknown: 6,
} as const;

export type Outcome = keyof typeof EXIT_CODES;

export interface Verdict {
  readonly outcome: Outcome;
  /** Where the guest is, if that is known. */
  readonly guestAt: 'source' | 'destination' | 'unknown';
  /** In a sentence or two, for people. */
  readonly text: string;
  /** The guest stands still at the source, ran there before, and cannot run elsewhere: `cont` is safe. */
  readonly mayContinue: boolean;
}

export function judgeOutcome(facts: EndFacts): Verdict {
  const { source, destination } = facts;
  const isAtSource = isKnown(source) && source.runState === 'running';
  const isAtDestination = isKnown(destination) && destination.runState === 'running';
  if (isAtSource && isAtDestination) {
    return unknown(
      'unknown',
      'The guest runs on both sides: stop one of the two at once, before they write to the same disks',
    );
  }
  if (source.status === 'completed' || (!isKnown(source) && destination.status === 'completed')) {
    return completed(facts);
  }
  if (source.status === 'failed' || source.status === 'cancelled') return failed(facts, isAtDestination);
  return unfinished(facts, isAtDestination);
}

function completed({ wasRunning, source, destination }: EndFacts): Verdict {
  const lost = isKnown(source) ? '' : ` The source's monitor ${howLost(source)}.`;
  if (!isKnown(destination)) {
    return unknown(
      'unknown',
      `The source has completed the migration, and the destination's monitor ${howLost(destination)}: ` +
        'look at the destination. The copy at the source is out of date if the guest has run there',
    );
  }
  const { runState } = destination;
  if (runState === 'running' || runState === 'paused' || runState === 'prelaunch') {
    const isPaused = runState !== 'running';
    const why =
      isPaused && wasRunning ? ', since the destination was started that way: "cont" lets it run' : '';
    const text = `The guest ${isPaused ? 'is paused' : 'runs'} at the destination${why}.${lost}`;
    return { outcome: 'completed', guestAt: 'destination', text, mayContinue: false };
  }
  return unknown(
    'destination',
    `The source has completed the migration, but the destination is "${runState}": look there`,
  );
}

function failed(facts: EndFacts, isAtDestination: boolean): Verdict {
  const { source, destination, wasRunning, cancelledBy } = facts;
  const isCancelled =
    cancelledBy === 'operator' || (source.status === 'cancelled' && cancelledBy === undefined);
  const outcome = isCancelled ? 'cancelled' : 'failed';
  const what =
    outcome === 'cancelled' ? 'The migration was cancelled' : `The migration has failed${reason(facts)}`;
  if (isAtDestination) {
    return unknown(
      'destination',
      `${what}, yet the guest runs at the destination. Do not let it run at the source ("cont"): its copy is out of date`,
    );
  }
  if (!isKnown(source)) {
    return unknown('unknown', `${what}; then the source's monitor ${howLost(source)}: look at both sides`);
  }
  if (source.runState === 'running') {
    return {
      outcome,
      guestAt: 'source',
      text: `${what}. The guest runs on at the source`,
      mayContinue: false,
    };
  }
  if (!wasRunning) {
    return {
      outcome,
      guestAt: 'source',
      text: `${what}. The guest is paused at the source, as before`,
      mayContinue: false,
    };
  }
  if (cannotRunAt(destination) && !facts.hasSwitched && !isBroken(source.runState)) {
    return {
      outcome,
      guestAt: 'source',
      text: `${what}. The guest stands still at the source`,
      mayContinue: true,
    };
  }
  return unknown(
    'unknown',
    `${what}, and the guest stands still at the source ("${source.runState}"), since the destination may have it ` +
      `(${describeSide(destination)}). Make sure that it does not run there; then "cont" lets it run at the source`,
  );
}

/** The source has not come to an end that could be seen. */
function unfinished(facts: EndFacts, isAtDestination: boolean): Verdict {
  const { source, destination, hasSwitched } = facts;
  if (isAtDestination) {
    const missing = hasSwitched
      ? ', and pages that only the source had are missing there: it stops at the first'
      : '';
    return unknown(
      'destination',
      `The source (${describeSide(source)}) has not ended the migration; the guest runs at the destination${missing}`,
    );
  }
  if (destination.isGone && hasSwitched) {
    return unknown(
      'unknown',
      `The destination's process has ended in postcopy, and what the guest did there is lost. The source ` +
        `(${describeSide(source)}) has the guest as it was when it left: to let it go on from there is safe only if its disks are as they were, too`,
    );
  }
  if (source.isGone) {
    return unknown(
      'unknown',
      `The source's process has ended, and the guest with it. Destination: ${describeSide(destination)}`,
    );
  }
  return unknown(
    'unknown',
    `How the migration ends is not known. Source: ${describeSide(source)}. Destination: ${describeSide(destination)}. Look at both`,
  );
}

/** Its process is gone and never ran the guest, or it has given the migration up. One that waits may still be sent all. */
function cannotRunAt({ isGone, isSilent, status, runState, hasRun }: SideFacts): boolean {
  if (hasRun || runState !== 'inmigrate') return false;
  return isGone || (!isSilent && status === 'failed');
}

function isBroken(runState: string): boolean {
  return ['internal-error', 'shutdown', 'guest-panicked', 'io-error'].includes(runState);
}

function isKnown({ isGone, isSilent }: SideFacts): boolean {
  return !isGone && !isSilent;
}

/** One side's state in a few words. */
export function describeSide(side: SideFacts): string {
  if (side.isGone) return 'its process has ended';
  const state = `migration ${side.status}, guest ${side.runState}`;
  return side.isSilent ? `it does not answer; when it last did: ${state}` : state;
}

function howLost({ isGone }: SideFacts): string {
  return isGone ? 'is gone, its process has ended' : 'does not answer';
}

function reason({ source, destination }: EndFacts): string {
  const text = source.errorText ?? destination.errorText;
  const ended = destination.isGone
    ? "the destination's process has ended (its own messages say why)"
    : undefined;
  const parts = [text, ended].filter((part) => part !== undefined);
  return parts.length === 0 ? '' : `: ${parts.join('; ')}`;
}

function unknown(guestAt: Verdict['guestAt'], text: string): Verdict {
  return { outcome: 'unknown', guestAt, text, mayContinue: false };
}
