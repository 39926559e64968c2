/**
 * One whole migration, simulated: both engines, the network, the guest and the operator, all decided by a seed.
 *
 * Rules are checked as things happen (`World.guestRuns`, guest-memory.ts, destination-side.ts), and at the end here.
 */
import { AssertionError } from 'node:assert';
import type { MigrationStatus } from '../../src/migration/states.ts';
import type { BrokenRule } from './broken-rules.ts';
import { DestinationSide } from './destination-side.ts';
import { PageNumbers } from './guest-memory.ts';
import { Pipe } from './pipe.ts';
import { planScenario, type Scenario } from './scenario.ts';
import { SourceSide } from './source-side.ts';
import { World } from './world.ts';

/** By then the guest is tired and limits are taken away: whatever goes on must end soon. */
const RESCUE_AT_MS = 12_000;
const END_MS = 40_000;

export interface Outcome {
  readonly source: MigrationStatus;
  readonly destination: MigrationStatus;
  readonly wasPostcopy: boolean;
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
  readonly #stream: Pipe;
  readonly #returnPath: Pipe;
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
    this.#stream = new Pipe(
      world,
      scenario.link,
      (bytes) => this.#destination.receive(bytes),
      (cause) => this.#destination.channelEnded(cause),
    );
    this.#returnPath = new Pipe(
      world,
      scenario.link,
      (bytes) => this.#source.receive(bytes),
      (cause) => this.#source.channelLost(cause),
    );
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
      story: this.#world.story,
    };
  }

  #sourceEntered(status: MigrationStatus): void {
    if (status === 'postcopy-active') this.#wasPostcopy = true;
    if (status === 'cancelled') this.#wasCancelled = true;
    for (const { deed, afterStatus, delayMs } of this.#scenario.deeds)
      if (afterStatus === status) this.#world.after(delayMs, () => this.#do(deed));
  }

  #do(deed: Scenario['deeds'][number]['deed']): void {
    if (deed !== 'cut') {
      this.#source.do(deed);
      return;
    }
    if (this.#source.engine.isOver && this.#destination.engine.isOver) return;
    this.#world.note('network: the connection breaks');
    this.#wasCut = true;
    this.#stream.break();
    this.#returnPath.break();
  }

  #checkEnd(): void {
    const source = this.#source.engine;
    const destination = this.#destination.engine;
    const pair = `${source.status} / ${destination.status}`;
    for (const error of [source.error, destination.error]) if (isOurMistake(error)) throw error;
    if (!source.isOver || !destination.isOver) this.#world.violate('hang', pair);
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
