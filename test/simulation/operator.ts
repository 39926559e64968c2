/**
 * The operator of a simulated migration: acts only on what the monitors of the two sides say, and by the documents
 * (docs/postcopy.md, "Recovery" and "When nobody knows who has the guest").
 *
 * What it sees is old by the time it acts, and what it says arrives later. A side that does not answer may be frozen or
 * cut off: nothing is decided then. A process that has ended is known to have ended; so, after some time, is a host.
 */
import type { View } from './source-side.ts';
import type { World } from './world.ts';

/** How a side answers: with what it says, not at all, or there is no such process any more. */
export type Sight = View | 'silent' | 'gone';

export type Order =
  | { readonly to: 'source'; readonly say: 'cancel' | 'pause' | 'cont' | 'quit' }
  | { readonly to: 'destination'; readonly say: 'pause' | 'cont' | 'quit' }
  | { readonly to: 'both'; readonly say: 'recover' };

export type Decision =
  | { readonly kind: 'wait' }
  | { readonly kind: 'order'; readonly orders: readonly Order[] }
  /** It is settled: the guest is where it must be, or lost for a reason that is seen. */
  | { readonly kind: 'end'; readonly outcome: 'at-source' | 'at-destination' | 'lost' };

export interface OperatorKnowledge {
  readonly hasReturnPath: boolean;
  /** The guest is to run. */
  readonly shouldRun: boolean;
  /** A broken rule: it does not look before it leaps. */
  readonly isRash: boolean;
  /** Nothing that is seen has changed for so long. */
  readonly unchangedMs: number;
}

/** The sides notice a connection that is gone, and give up a recovery, within this time by themselves. */
const PATIENCE_MS = 100_000;
/** When one side has noticed and the other not. */
const NOTICE_MS = 3000;

const WAIT: Decision = { kind: 'wait' };
const order = (...orders: readonly Order[]): Decision => ({ kind: 'order', orders });
const end = (outcome: 'at-source' | 'at-destination' | 'lost'): Decision => ({ kind: 'end', outcome });
const source = (say: 'cancel' | 'pause' | 'cont' | 'quit') => order({ to: 'source', say });
const destination = (say: 'pause' | 'cont' | 'quit') => order({ to: 'destination', say });

export function decide(here: Sight, there: Sight, known: OperatorKnowledge): Decision {
  if (here === 'silent' || there === 'silent') return WAIT;
  if (here === 'gone') return there === 'gone' ? end('lost') : withoutSource(there, known);
  if (there === 'gone') return withoutDestination(here, known);
  switch (here.status) {
    case 'postcopy-paused':
      return sourcePaused(here, there, known);
    case 'completed':
      return here.runState === 'running' ? end('at-source') : sourceCompleted(there, known);
    case 'failed':
    case 'cancelled':
    case 'none':
      return sourceOver(here, there, known);
    case 'postcopy-active':
    case 'postcopy-recover-setup':
    case 'postcopy-recover':
      return sourceInPostcopy(here, there, known);
    default:
      return beforeTheSwitch(there, known);
  }
}

function withoutSource(there: View, known: OperatorKnowledge): Decision {
  if (there.status === 'completed') return arrived(there, known);
  // It runs until it needs a page that is gone; what to do with that is nobody's to decide here.
  if (there.status === 'postcopy-paused') return end('lost');
  if (there.status.startsWith('postcopy-'))
    return known.unchangedMs < NOTICE_MS
      ? WAIT
      : known.unchangedMs < PATIENCE_MS
        ? destination('pause')
        : end('lost');
  if (there.status === 'failed') return end('lost');
  return known.unchangedMs < PATIENCE_MS ? WAIT : destination('quit');
}

function withoutDestination(here: View, known: OperatorKnowledge): Decision {
  if (here.runState === 'running' && isOver(here)) return end('at-source');
  switch (here.status) {
    case 'completed':
      return known.hasReturnPath ? end('lost') : source('cont');
    case 'failed':
    case 'cancelled':
      return continueAtSource(here, known);
    case 'postcopy-paused':
      return here.runState === 'postmigrate' ? end('lost') : source('cont');
    case 'postcopy-active':
    case 'postcopy-recover':
    case 'postcopy-recover-setup':
      return known.unchangedMs < NOTICE_MS ? WAIT : source('pause');
    default:
      if (known.unchangedMs < PATIENCE_MS) return WAIT;
      return source(known.unchangedMs < 2 * PATIENCE_MS ? 'cancel' : 'pause');
  }
}

function sourcePaused(here: View, there: View, known: OperatorKnowledge): Decision {
  const isUnknown = here.runState === 'paused';
  if (isUnknown && known.isRash) return source('cont');
  switch (there.status) {
    case 'completed':
      return arrived(there, known);
    case 'failed':
      return isUnknown ? source('cont') : end('lost');
    case 'postcopy-paused':
      if (!saysItIsLost(there) && !saysItIsLost(here)) return order({ to: 'both', say: 'recover' });
      return isUnknown ? destination('quit') : end('lost');
    case 'postcopy-active':
    case 'postcopy-recover':
      return known.unchangedMs < NOTICE_MS ? WAIT : destination('pause');
    default:
      // The package has not come, and may still: only a process that has ended surely never runs it.
      return known.unchangedMs < NOTICE_MS ? WAIT : destination('quit');
  }
}

/** The destination has said that it runs the guest; without a return path, everything has been sent. */
function sourceCompleted(there: View, known: OperatorKnowledge): Decision {
  if (there.status === 'completed') return arrived(there, known);
  if (there.status === 'failed') return known.hasReturnPath ? end('lost') : source('cont');
  return known.unchangedMs < PATIENCE_MS ? WAIT : destination('quit');
}

function sourceOver(here: View, there: View, known: OperatorKnowledge): Decision {
  if (there.status === 'completed') return arrived(there, known);
  if (there.status === 'failed') return continueAtSource(here, known);
  if (there.runState !== 'inmigrate') return arrived(there, known);
  return known.unchangedMs < NOTICE_MS ? WAIT : destination('quit');
}

function sourceInPostcopy(here: View, there: View, known: OperatorKnowledge): Decision {
  if (known.unchangedMs < NOTICE_MS) return WAIT;
  const isOneSided = there.status === 'postcopy-paused' || there.status === 'failed';
  if (isOneSided && here.status === 'postcopy-active') return source('pause');
  if (known.unchangedMs < PATIENCE_MS) return WAIT;
  return there.status === 'postcopy-active' || there.status === 'postcopy-recover'
    ? order({ to: 'destination', say: 'pause' }, { to: 'source', say: 'pause' })
    : source('pause');
}

function beforeTheSwitch(there: View, known: OperatorKnowledge): Decision {
  if (known.unchangedMs < PATIENCE_MS) return WAIT;
  // If that is refused, everything has been sent: then the source is not to wait any longer either.
  if (known.unchangedMs < 2 * PATIENCE_MS) return source('cancel');
  return there.status === 'completed' ? arrived(there, known) : source('pause');
}

/** The guest is there. It is paused if it was at the source, or if somebody has stopped it. */
function arrived(there: View, known: OperatorKnowledge): Decision {
  if (known.shouldRun && there.runState === 'paused') return destination('cont');
  return end('at-destination');
}

function continueAtSource(here: View, known: OperatorKnowledge): Decision {
  if (here.runState === 'finish-migrate') return WAIT;
  if (here.runState === 'postmigrate') return end('lost');
  return known.shouldRun && here.runState === 'paused' ? source('cont') : end('at-source');
}

/** A side whose thread has died, or whose machine cannot run the guest, says so. */
function saysItIsLost({ error }: View): boolean {
  return error !== undefined && /cannot be recovered|could not be resumed/.test(error);
}

function isOver({ status }: View): boolean {
  return ['none', 'completed', 'failed', 'cancelled'].includes(status);
}

/** Looks from time to time, decides, and has its orders carried out. */
export class Operator {
  /** Where the guest ended, as far as the operator knows. */
  outcome: 'at-source' | 'at-destination' | 'lost' | undefined;
  readonly #world: World;
  readonly #lookEveryMs: number;
  readonly #look: (onSeen: (here: Sight, there: Sight) => void) => void;
  readonly #carryOut: (order: Order, onDone: () => void) => void;
  readonly #onEnd: () => boolean;
  readonly #facts: Omit<OperatorKnowledge, 'unchangedMs'>;
  #lastSeen = '';
  #changedAtMs = 0;

  /**
   * @param look asks both sides, and answers when both have answered, or not
   * @param carryOut gives a command, and answers when it has been answered, or not
   * @param onEnd what to do when it is settled; false if that was the last
   */
  constructor(
    world: World,
    options: {
      readonly lookEveryMs: number;
      readonly facts: Omit<OperatorKnowledge, 'unchangedMs'>;
      look(onSeen: (here: Sight, there: Sight) => void): void;
      carryOut(order: Order, onDone: () => void): void;
      onEnd(): boolean;
    },
  ) {
    this.#world = world;
    this.#lookEveryMs = options.lookEveryMs;
    this.#facts = options.facts;
    this.#look = options.look;
    this.#carryOut = options.carryOut;
    this.#onEnd = options.onEnd;
  }

  watch(): void {
    const { nowMs, random } = this.#world;
    // Where nothing changes, there is less to look at.
    const everyMs = Math.max(this.#lookEveryMs, (nowMs - this.#changedAtMs) / 10);
    this.#world.after(everyMs * (0.5 + random.fraction()), () => {
      this.#look((here, there) => this.#seen(here, there));
    });
  }

  #seen(here: Sight, there: Sight): void {
    const { nowMs } = this.#world;
    const seen = JSON.stringify([here, there]);
    if (seen !== this.#lastSeen) this.#changedAtMs = nowMs;
    this.#lastSeen = seen;
    const decision = decide(here, there, { ...this.#facts, unchangedMs: nowMs - this.#changedAtMs });
    switch (decision.kind) {
      case 'wait':
        this.watch();
        return;
      case 'order':
        this.#carryOutAll(decision.orders);
        return;
      case 'end':
        this.#world.note(`operator: the guest is ${decision.outcome}`);
        this.outcome = decision.outcome;
        if (this.#onEnd()) {
          this.#changedAtMs = nowMs;
          this.watch();
        }
    }
  }

  #carryOutAll([first, ...others]: readonly Order[]): void {
    if (first === undefined) {
      this.watch();
      return;
    }
    this.#world.note(`operator: ${first.say} at ${first.to}`);
    this.#carryOut(first, () => this.#carryOutAll(others));
  }
}
