/**
 * The end of a migration: both sides are asked until they agree, or it is plain that they will not; then it is judged, and a guest
 * that stands still for nothing is let go on.
 */
import { type EndFacts, judgeOutcome, type SideFacts, type Verdict } from './judge-outcome.ts';
import { isEnded } from './stages.ts';
import type { WatchedMachine } from './watched-machine.ts';

/** How long the two sides may take to agree; if the source does not answer there is less to wait for. */
const SETTLE_MS = 30_000;
const SETTLE_ALONE_MS = 2000;
const ASK_MS = 100;

export interface SettleOptions {
  readonly source: WatchedMachine;
  readonly destination: WatchedMachine;
  /** What was seen on the way. It is asked for when the two have settled. */
  seen(): Omit<EndFacts, 'source' | 'destination'>;
  onLine(who: string, text: string): void;
  untilChange(timeoutMs: number): Promise<void>;
}

export async function settle(options: SettleOptions): Promise<Verdict> {
  const { source, destination } = options;
  const endsAtMs = performance.now() + (source.isSilent ? SETTLE_ALONE_MS : SETTLE_MS);
  for (;;) {
    const answers = await Promise.all([source.refresh(ASK_MS), destination.refresh(ASK_MS)]);
    const isKnown = (answers[0] || source.isGone) && (answers[1] || destination.isGone);
    if ((isKnown && areSettled(source, destination)) || performance.now() > endsAtMs) break;
    await options.untilChange(ASK_MS);
  }
  const verdict = judgeOutcome({
    ...options.seen(),
    source: factsOf(source),
    destination: factsOf(destination),
  });
  return verdict.mayContinue ? await letGoOn(verdict, options) : verdict;
}

function areSettled(source: WatchedMachine, destination: WatchedMachine): boolean {
  if (destination.isGone) {
    return isEnded(source.status) || source.isGone || source.status === 'postcopy-paused';
  }
  if (source.status === 'completed') {
    return destination.status === 'completed' && destination.runState !== 'inmigrate';
  }
  // Once the guest runs on at the source, nothing that the destination still says can change that.
  if (isEnded(source.status) && source.runState === 'running') return destination.runState === 'inmigrate';
  return isEnded(destination.status) || destination.status === 'postcopy-paused';
}

async function letGoOn(verdict: Verdict, { source, onLine }: SettleOptions): Promise<Verdict> {
  try {
    await source.execute('cont');
    // The answer to an older question may come first.
    if (!(await source.refresh(ASK_MS))) await source.refresh(ASK_MS);
    onLine('source', 'the guest is continued: it cannot run at the destination');
    return { ...verdict, mayContinue: false, text: `${verdict.text}, and was continued` };
  } catch (error) {
    const text = `${verdict.text}, and cannot be continued: ${(error as Error).message}`;
    return { ...verdict, outcome: 'unknown', text, mayContinue: false };
  }
}

function factsOf(machine: WatchedMachine): SideFacts {
  const { isGone, isSilent, status, runState, hasRun, info } = machine;
  return { isGone, isSilent, status, runState, hasRun, errorText: info['error-desc'] };
}
