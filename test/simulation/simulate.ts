/**
 * One whole migration, simulated: both engines, the network, the guest and the operator, all decided by a seed.
 *
 * Rules are checked as things happen (`World.guestRuns`, guest-memory.ts, destination-side.ts), and at the end here.
 */
import { AssertionError } from 'node:assert';
import { MigrationError } from '../../src/migration/migration-error.ts';
import type { MigrationStatus } from '../../src/migration/states.ts';
import type { BrokenRule } from './broken-rules.ts';
import { DestinationSide } from './destination-side.ts';
import { PageNumbers } from './guest-memory.ts';
import { Pipe } from './pipe.ts';
import { planScenario, type RecoveryPlan, type Scenario } from './scenario.ts';
import { SourceSide } from './source-side.ts';
import { World } from './world.ts';

/** By then the guest is tired and limits are taken away: whatever goes on must end soon. */
const RESCUE_AT_MS = 12_000;
const END_MS = 40_000;

export interface Outcome {
  readonly source: MigrationStatus;
  readonly destination: MigrationStatus;
  readonly wasPostcopy: boolean;
  readonly recoveries: number;
  /** What happened last, a line each. */
  readonly story: string;
}

/** A simulation that broke a rule: `message` begins with the seed and ends with the story. */
export class SimulationError extends Error {
  override readonly name = 'SimulationError';
}

/** @throws {SimulationError} if a rule is broken */
export function simulate(seed: number, broken?: BrokenRule): Outcome {
  const world = new World(seed);
  const scenario = planScenario(world.random);
  try {
    return new Simulation(world, scenario, broken).run();
  } catch (error) {
    const { message, stack } = error as Error;
    const plan = JSON.stringify(scenario, (_, value) => (value === undefined ? null : value));
    throw new SimulationError(`SEED=${seed} ${message}\n${plan}\n${world.story}\n${stack}`, { cause: error });
  }
}

class Simulation {
  readonly #world: World;
  readonly #scenario: Scenario;
  readonly #source: SourceSide;
  readonly #destination: DestinationSide;
  #stream: Pipe;
  #returnPath: Pipe;
  /** Attempts to recover. */
  #attempts = 0;
  #recoveries = 0;
  #wasCut = false;
  #wasCancelled = false;
  #wasPostcopy = false;

  constructor(world: World, scenario: Scenario, broken: BrokenRule | undefined) {
    this.#world = world;
    this.#scenario = scenario;
    const pages = new PageNumbers(scenario.blocks);
    this.#source = new SourceSide(world, scenario, pages, () => this.#stream, broken);
    this.#destination = new DestinationSide(
      world,
      scenario,
      pages,
      this.#source,
      () => this.#returnPath,
      broken,
    );
    [this.#stream, this.#returnPath] = this.#connect();
  }

  /** What still arrives on an earlier connection is nobody's: both have closed it. */
  #connect(): [stream: Pipe, returnPath: Pipe] {
    const { link } = this.#scenario;
    const stream: Pipe = new Pipe(
      this.#world,
      link,
      (bytes) => stream === this.#stream && this.#destination.receive(bytes),
      (cause) => stream === this.#stream && this.#destination.channelEnded(cause),
    );
    const returnPath: Pipe = new Pipe(
      this.#world,
      link,
      (bytes) => returnPath === this.#returnPath && this.#source.receive(bytes),
      (cause) => returnPath === this.#returnPath && this.#source.channelLost(cause),
    );
    return [stream, returnPath];
  }

  run(): Outcome {
    this.#source.onStatus = (status) => this.#sourceEntered(status);
    for (const { deed, afterStatus, delayMs } of this.#scenario.deeds)
      if (afterStatus === undefined) this.#world.after(delayMs, () => this.#do(deed));
    this.#world.after(RESCUE_AT_MS, () => this.#source.removeLimits());
    this.#destination.start();
    this.#source.start();
    this.#world.run(END_MS);
    this.#checkEnd();
    return {
      source: this.#source.engine.status,
      destination: this.#destination.engine.status,
      wasPostcopy: this.#wasPostcopy,
      recoveries: this.#recoveries,
      story: this.#world.story,
    };
  }

  #sourceEntered(status: MigrationStatus): void {
    if (status === 'postcopy-active' && this.#attempts > 0) this.#recoveries++;
    if (status === 'postcopy-active' && !this.#wasPostcopy) {
      this.#wasPostcopy = true;
      if (this.#scenario.recovery !== undefined) this.#lookLater();
    }
    if (status === 'cancelled') this.#wasCancelled = true;
    for (const { deed, afterStatus, delayMs } of this.#scenario.deeds)
      if (afterStatus === status && this.#attempts === 0) this.#world.after(delayMs, () => this.#do(deed));
  }

  #do(deed: Scenario['deeds'][number]['deed']): void {
    switch (deed) {
      case 'cut':
        this.#cut();
        return;
      case 'pause-destination':
        this.#pauseDestination();
        return;
      case 'pause-source':
        this.#source.do(deed);
        if (this.#source.engine.isPaused) this.#wasCut = true;
        return;
      default:
        this.#source.do(deed);
    }
  }

  #cut(): void {
    if (this.#source.engine.isOver && this.#destination.engine.isOver) return;
    this.#world.note('network: the connection breaks');
    this.#wasCut = true;
    this.#stream.break();
    this.#returnPath.break();
  }

  #pauseDestination(): void {
    try {
      this.#destination.pause();
      this.#wasCut = true;
    } catch (error) {
      if (!(error instanceof MigrationError)) throw error;
      this.#world.note(`operator: pause at the destination refused: ${error.message}`);
    }
  }

  // ---- recovery --------------------------------------------------------------------------------------------

  #lookLater(): void {
    const { lookEveryMs } = this.#scenario.recovery as RecoveryPlan;
    this.#world.after(lookEveryMs * (0.5 + this.#world.random.fraction()), () => this.#look());
  }

  /** The operator looks at both sides, until nothing is left to do. */
  #look(): void {
    const [source, destination] = [this.#source.engine, this.#destination.engine];
    if (source.isOver || destination.isOver) return;
    if (source.isPaused && destination.isPaused) {
      if (!this.#tryRecovery(this.#scenario.recovery as RecoveryPlan)) return;
    }
    // One side has not noticed, or will not: it is told.
    else if (source.isPaused && this.#world.random.chance(0.1)) this.#pauseDestination();
    else if (destination.isPaused && this.#world.random.chance(0.1)) this.#do('pause-source');
    this.#lookLater();
  }

  /** @returns false if there is no use in trying again */
  #tryRecovery({ cuts, wrongPeers }: RecoveryPlan): boolean {
    const cut = cuts[this.#attempts];
    const isWrongPeer = this.#attempts++ < wrongPeers;
    this.#world.note(`operator: recovers${isWrongPeer ? ', and reaches somebody else' : ''}`);
    [this.#stream, this.#returnPath] = this.#connect();
    try {
      this.#destination.recover();
    } catch (error) {
      if (!(error instanceof MigrationError)) throw error;
      this.#world.note(`destination: will not recover: ${error.message}`);
      return false;
    }
    this.#source.recover();
    if (isWrongPeer) this.#meetSomebodyElse();
    else if (cut !== undefined) this.#world.after(cut.afterMs, () => this.#cut());
    return true;
  }

  /** Each side is connected to another than the other: one that begins a migration, and one that hangs up. */
  #meetSomebodyElse(): void {
    const [stream, returnPath] = this.#connect();
    this.#stream.break();
    this.#returnPath.break();
    [this.#stream, this.#returnPath] = [stream, returnPath];
    stream.write(Buffer.from('QEVM'));
    returnPath.close();
  }

  #checkEnd(): void {
    const source = this.#source.engine;
    const destination = this.#destination.engine;
    const pair = `${source.status} / ${destination.status}`;
    for (const error of [source.error, destination.error]) if (isOurMistake(error)) throw error;
    const isAtRest = (engine: typeof source | typeof destination) => engine.isOver || engine.isPaused;
    if (!isAtRest(source) || !isAtRest(destination)) this.#world.violate('hang', pair);
    const canRecover = this.#scenario.recovery !== undefined && this.#scenario.failure !== 'resume';
    if (canRecover && source.isPaused && destination.isPaused) this.#world.violate('not recovered', pair);
    const hadTrouble = this.#wasCut || this.#wasCancelled || this.#scenario.failure !== undefined;
    if (!hadTrouble && pair !== 'completed / completed') this.#world.violate('pair', `${pair} without cause`);
    const wherePermitted = (this.#scenario.hasReturnPath ? GUEST_BY_PAIR : GUEST_BY_PAIR_ONE_WAY)[pair];
    if (wherePermitted === undefined) this.#world.violate('pair', pair);
    if (this.#scenario.isGuestRunning) this.#checkGuest(pair, wherePermitted);
    if (destination.status === 'completed') this.#checkCompleted();
  }

  #checkGuest(pair: string, wherePermitted: readonly string[]): void {
    const guestAt = this.#world.guestAt ?? 'nowhere';
    const isHandedOver = this.#source.engine.info(this.#world.nowMs).downtime !== undefined;
    if (!isHandedOver && guestAt !== 'source')
      this.#world.violate('guest', `it was not handed over and runs ${guestAt} in ${pair}`);
    if (!wherePermitted.includes(guestAt)) this.#world.violate('guest', `it runs ${guestAt} in ${pair}`);
    if (guestAt === 'nowhere' && !this.#wasCut && this.#scenario.failure === undefined)
      this.#world.violate('guest', `it runs nowhere in ${pair}, and nothing broke`);
  }

  #checkCompleted(): void {
    const wrongPage = this.#destination.firstWrongPage;
    if (wrongPage >= 0) this.#world.violate('memory', `page ${wrongPage} is not the guest's`);
    if (this.#destination.blockedVcpus > 0) this.#world.violate('hang', 'a vCPU waits for a page');
    if (this.#wasCut || this.#source.engine.status !== 'completed' || !this.#wasPostcopy) return;
    const taken = this.#source.engine.info(this.#world.nowMs).ram?.['postcopy-requests'];
    if (taken !== this.#destination.requests)
      this.#world.violate('requests', `${this.#destination.requests} were sent, ${taken} were taken`);
  }
}

/** A peer's violation or a lost connection ends a migration; a mistake of ours must not look like one. */
function isOurMistake(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  return error instanceof AssertionError || error instanceof TypeError || isOurMistake(error.cause);
}

/**
 * Where a guest that ran before may be found at the end, by what both sides say.
 *
 * `nowhere` is left by a connection that broke after the last byte of the guest had left and before it was there, or by a
 * destination that could not load what it got. Then the destination says `failed`: the guest never ran there, and can go
 * on at the source. (In `postcopy-paused` at both ends the machine of the destination has refused to run it.)
 */
const GUEST_BY_PAIR: Readonly<Record<string, readonly string[]>> = {
  'completed / completed': ['destination'],
  'cancelled / failed': ['source'],
  'failed / failed': ['source', 'nowhere'],
  'failed / completed': ['destination'],
  'postcopy-paused / postcopy-paused': ['destination', 'nowhere'],
  'postcopy-paused / completed': ['destination'],
  'postcopy-paused / failed': ['nowhere'],
};

/** Without a return path the source is content once everything has left. */
const GUEST_BY_PAIR_ONE_WAY: Readonly<Record<string, readonly string[]>> = {
  'completed / completed': ['destination'],
  'completed / failed': ['nowhere'],
  'cancelled / failed': ['source'],
  'failed / failed': ['source', 'nowhere'],
  'failed / completed': ['destination'],
};
