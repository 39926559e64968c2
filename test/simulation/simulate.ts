/**
 * One whole story, simulated: source, destinations, network, guest and operator, all decided by a seed.
 *
 * Rules are checked as things happen (`World.guestRuns`, guest-memory.ts, destination-side.ts), and at the end here: what
 * the operator is left with must be one guest that runs, with its memory, unless whatever held it was killed.
 */
import { AssertionError } from 'node:assert';
import { TARGET_PAGE_BYTES } from '../../src/memory/ram-block.ts';
import { MigrationError } from '../../src/migration/migration-error.ts';
import type { MigrationStatus } from '../../src/migration/states.ts';
import type { BrokenRule } from './broken-rules.ts';
import { DestinationSide } from './destination-side.ts';
import { PageNumbers } from './guest-memory.ts';
import { Connection, type End, Path } from './network.ts';
import { Operator, type Order, type Sight } from './operator.ts';
import { Random } from './random.ts';
import {
  type CommandDeed,
  type Deed,
  type NetworkDeed,
  type PlannedDeed,
  type ProcessDeed,
  pageCountOf,
  planParameters,
  planScenario,
  type Scenario,
  type Side,
  type Stranger,
} from './scenario.ts';
import { SourceSide } from './source-side.ts';
import { World } from './world.ts';

/** By then the guest is tired and limits are taken away: whatever goes on must end soon. */
const RESCUE_AFTER_MS = 12_000;
/** Some time-outs and some patience, one after the other. */
const END_MS = 3_000_000;
/** How long somebody waits for an answer of a monitor, or for a connection. */
const ANSWER_MS = 10_000;
const CONNECT_MS = 30_000;
/** An attempt that is under way is broken off after so long, if it does not end by itself. */
const SILENCE_ENDS_MS = 40_000;
const MAX_MIGRATIONS = 3;
/** What is lost is sent again after some pauses that have grown. */
const RETRANSMISSION_MS = 2500;

export interface Outcome {
  readonly source: MigrationStatus;
  readonly destination: MigrationStatus;
  readonly wasPostcopy: boolean;
  readonly recoveries: number;
  readonly migrations: number;
  readonly end: 'at-source' | 'at-destination' | 'lost' | undefined;
  readonly isRolledBack: boolean;
  /** What happened last, a line each. */
  readonly story: string;
  readonly hash: string;
}

/** A simulation that broke a rule: `message` begins with the seed and ends with the story. */
export class SimulationError extends Error {
  override readonly name = 'SimulationError';
  readonly rule: string;

  constructor(rule: string, message: string, cause: unknown) {
    super(message, { cause });
    this.rule = rule;
  }
}

export interface SimulationOptions {
  readonly broken?: BrokenRule | undefined;
  /** The plan of the seed without some of its deeds, or another one. */
  readonly change?: (scenario: Scenario) => Scenario;
  readonly keepsStory?: boolean;
}

export function scenarioOf(seed: number): Scenario {
  return planScenario(new Random(seed));
}

/** @throws {SimulationError} if a rule is broken */
export function simulate(seed: number, options: SimulationOptions = {}): Outcome {
  const { broken, change = (scenario) => scenario, keepsStory } = options;
  const scenario = change(scenarioOf(seed));
  // What happens by chance does not depend on how the plan was made.
  const world = new World(~seed, keepsStory);
  try {
    return new Simulation(world, scenario, broken).run();
  } catch (error) {
    const { message, stack } = error as Error;
    const plan = JSON.stringify(scenario, (_, value) => (value === undefined ? null : value));
    throw new SimulationError(message, `SEED=${seed} ${message}\n${plan}\n${world.story}\n${stack}`, error);
  }
}

class Simulation {
  readonly #world: World;
  readonly #scenario: Scenario;
  readonly #broken: BrokenRule | undefined;
  readonly #pages: PageNumbers;
  readonly #source: SourceSide;
  readonly #streamPath: Path;
  readonly #returnPath: Path;
  readonly #operator: Operator;
  readonly #strangers: Stranger[];
  #destination: DestinationSide;
  #connection: Connection | undefined;
  #destinations = 0;
  #migrations = 0;
  #recoveries = 0;
  #wasPostcopy = false;
  /** How often the source was in a state. */
  readonly #entered = new Map<MigrationStatus, number>();
  /** Anything has gone wrong, or been interfered with. */
  #hadTrouble = false;
  /** What the guest was, or may have been, in is gone; or its machine cannot run it. */
  #mayBeLost = false;
  #lastDeedAtMs = 0;
  /** When the operator began to look at what it sees. */
  #lookedAtMs = 0;
  /** Pages that are asked for may come late: the network, or a side, was not itself until then. */
  #disturbedUntilMs = Number.NEGATIVE_INFINITY;
  /** Something of this connection is lost for good: what comes at all may come at any time. */
  #isConnectionSick = false;
  #slowest: { delayMs: number; bytesPerMs: number };

  constructor(world: World, scenario: Scenario, broken: BrokenRule | undefined) {
    this.#world = world;
    this.#scenario = scenario;
    this.#broken = broken;
    this.#pages = new PageNumbers(scenario.blocks);
    this.#streamPath = new Path(scenario.streamLink);
    this.#returnPath = new Path(scenario.returnLink);
    this.#slowest = {
      delayMs: Math.max(scenario.streamLink.delayMs, scenario.returnLink.delayMs),
      bytesPerMs: Math.min(scenario.streamLink.bytesPerMs, scenario.returnLink.bytesPerMs),
    };
    this.#strangers = [...scenario.operator.strangers];
    this.#source = new SourceSide(world, scenario, this.#pages, broken);
    this.#destination = this.#newDestination();
    this.#operator = new Operator(world, {
      lookEveryMs: scenario.operator.lookEveryMs,
      facts: {
        hasReturnPath: scenario.hasReturnPath,
        shouldRun: scenario.isGuestRunning,
        isRash: broken?.isOperatorRash === true,
      },
      look: (onSeen) => this.#look(onSeen),
      carryOut: (order, onDone) => this.#carryOut(order, onDone),
      onEnd: () => this.#settled(),
    });
  }

  run(): Outcome {
    this.#source.onStatus = (status) => this.#sourceEntered(status);
    for (const planned of this.#scenario.deeds)
      if (planned.afterStatus === undefined) this.#world.after(planned.delayMs, () => this.#do(planned.deed));
    this.#migrate();
    this.#operator.watch();
    this.#world.run(END_MS);
    this.#checkEnd();
    return {
      source: this.#source.status,
      destination: this.#destination.status,
      wasPostcopy: this.#wasPostcopy,
      recoveries: this.#recoveries,
      migrations: this.#migrations,
      end: this.#operator.outcome,
      isRolledBack: this.#world.isRolledBack,
      story: this.#world.story,
      hash: this.#world.hash,
    };
  }

  #newDestination(): DestinationSide {
    const side = new DestinationSide(
      this.#world,
      this.#scenario,
      ++this.#destinations,
      this.#pages,
      this.#source,
      (requestedAtMs) => this.#longestWaitMs(requestedAtMs),
      this.#broken,
    );
    side.onStatus = (status) => {
      if (status === 'postcopy-recover') this.#mustBeHeard(side);
    };
    return side;
  }

  #migrate(): void {
    this.#migrations++;
    this.#source.migrate();
    this.#connect(this.#destination);
    const { engine } = this.#source;
    this.#world.after(RESCUE_AFTER_MS, () => {
      if (engine === this.#source.engine && this.#source.process.isAlive)
        this.#source.process.run(() => this.#removeLimits());
    });
  }

  /** Everything is let through from now on, so that any migration can end. */
  #removeLimits(): void {
    const parameters = { ...this.#scenario.parameters, 'max-bandwidth': 0, 'max-postcopy-bandwidth': 0 };
    this.#source.setParameters({ ...parameters, 'downtime-limit': 2_000_000 });
  }

  #sourceEntered(status: MigrationStatus): void {
    const nth = (this.#entered.get(status) ?? 0) + 1;
    this.#entered.set(status, nth);
    if (status === 'postcopy-active') {
      if (this.#wasPostcopy) this.#recoveries++;
      this.#wasPostcopy = true;
    }
    if (status === 'postcopy-recover') this.#mustBeHeard(this.#source);
    for (const planned of this.#scenario.deeds)
      if (planned.afterStatus === status && planned.nth === nth)
        this.#world.after(planned.delayMs, () => this.#do(planned.deed));
  }

  /** Of a recovery in which nothing is heard a side must have had enough by itself. */
  #mustBeHeard(side: SourceSide | DestinationSide): void {
    this.#world.after(SILENCE_ENDS_MS, () => {
      if (side.status !== 'postcopy-recover' || !side.process.isAlive || side.process.isFrozen) return;
      const sinceMs = Math.max(side.heardAtMs, side.process.thawedAtMs);
      if (this.#world.nowMs - sinceMs >= SILENCE_ENDS_MS)
        this.#world.violate('no time-out', 'nothing was heard in a recovery, and it goes on');
      this.#mustBeHeard(side);
    });
  }

  // ---- what happens ----------------------------------------------------------------------------------------

  #do(deed: Deed): void {
    if (this.#operator.outcome !== undefined) return;
    this.#lastDeedAtMs = this.#world.nowMs;
    if (deed.do !== 'start-postcopy' && deed.do !== 'query' && deed.do !== 'set-parameters')
      this.#hadTrouble = true;
    switch (deed.do) {
      case 'cut':
      case 'half-close':
      case 'stall':
      case 'blackhole':
      case 'path':
        this.#disturbNetwork(deed);
        return;
      case 'kill':
      case 'freeze':
      case 'thread-dies':
      case 'fault-thread-dies':
        this.#disturbProcess(deed);
        return;
      default:
        this.#command(deed);
    }
  }

  #disturbNetwork(deed: NetworkDeed): void {
    const connection = this.#connection;
    this.#world.note(`network: ${JSON.stringify(deed)}`);
    switch (deed.do) {
      case 'cut':
        connection?.cut();
        return;
      case 'half-close':
        connection?.flow(deed.direction).halfClose();
        return;
      case 'stall':
        this.#isConnectionSick = true;
        connection?.flow(deed.direction).stall();
        return;
      case 'blackhole':
        if (deed.direction !== 'return-path') this.#blackhole('stream', deed.forMs);
        if (deed.direction !== 'stream') this.#blackhole('return-path', deed.forMs);
        return;
      case 'path': {
        this.#slowest = {
          delayMs: Math.max(this.#slowest.delayMs, deed.delayMs),
          bytesPerMs: Math.min(this.#slowest.bytesPerMs, deed.bytesPerMs),
        };
        for (const path of [this.#streamPath, this.#returnPath]) {
          path.delayMs = deed.delayMs;
          path.bytesPerMs = deed.bytesPerMs;
        }
      }
    }
  }

  #blackhole(direction: 'stream' | 'return-path', forMs: number | undefined): void {
    if (forMs === undefined) {
      this.#isConnectionSick = true;
      this.#connection?.flow(direction).loseForGood();
      return;
    }
    const path = direction === 'stream' ? this.#streamPath : this.#returnPath;
    path.block();
    this.#disturbed(forMs);
    this.#world.after(forMs, () => {
      this.#world.note(`network: packets of the ${direction} come through again`);
      path.unblock();
    });
  }

  #disturbed(forMs: number): void {
    const untilMs = this.#world.nowMs + forMs + RETRANSMISSION_MS;
    this.#disturbedUntilMs = Math.max(this.#disturbedUntilMs, untilMs);
  }

  #disturbProcess(deed: ProcessDeed): void {
    if (deed.do === 'fault-thread-dies') {
      this.#disturbed(200);
      const destination = this.#destination;
      destination.process.run(() => destination.faultThreadDies());
      return;
    }
    const side = this.#side(deed.side);
    switch (deed.do) {
      case 'kill':
        this.#kill(deed.side, deed.isSilent);
        return;
      case 'freeze':
        this.#world.note(`${deed.side}: stopped for ${deed.forMs} ms`);
        this.#disturbed(deed.forMs);
        side.process.freeze(deed.forMs);
        return;
      case 'thread-dies':
        side.process.run(() => {
          if (deed.side === 'source' ? this.#isSourceNeeded : this.#destination.mayHoldGuest)
            this.#mayBeLost = true;
          side.threadDies();
        });
    }
  }

  #kill(which: Side, isSilent: boolean): void {
    if (which === 'source' ? this.#isSourceNeeded : this.#destination.mayHoldGuest) this.#mayBeLost = true;
    this.#side(which).kill(isSilent);
  }

  /** The guest, or pages of it, may be nowhere else. */
  get #isSourceNeeded(): boolean {
    return this.#destination.status !== 'completed';
  }

  #side(which: Side): SourceSide | DestinationSide {
    return which === 'source' ? this.#source : this.#destination;
  }

  // ---- commands of people ----------------------------------------------------------------------------------

  #command(deed: CommandDeed): void {
    const [source, destination] = [this.#source, this.#destination];
    switch (deed.do) {
      case 'start-postcopy':
        this.#try('source', deed.do, () => source.startPostcopy());
        return;
      case 'cancel':
        this.#try('source', deed.do, () => source.cancel());
        return;
      case 'set-parameters':
        this.#try('source', deed.do, () => source.setParameters(planParameters(this.#world.random, 50)));
        return;
      case 'query':
        this.#try('source', deed.do, () => source.view);
        this.#try('destination', deed.do, () => destination.view);
        return;
      case 'migrate-again':
        this.#try('source', deed.do, () => {
          // To a destination that has one already: somebody else gets nothing.
          source.migrate();
          this.#connect('refused');
        });
        return;
      case 'resume':
        this.#try('source', deed.do, () => {
          source.resume();
          this.#connect(this.#destination);
        });
        return;
      case 'recover':
        this.#try('destination', deed.do, () => destination.listen());
        return;
      case 'pause':
        this.#try(deed.side, deed.do, () => this.#side(deed.side).pause());
        return;
      case 'stop':
        this.#try(deed.side, deed.do, () => {
          const side = this.#side(deed.side);
          const { status, runState } = side;
          side.stop();
          if (runState !== 'running') return;
          this.#world.after(deed.forMs, () => this.#continueStopped(deed.side, side, status));
        });
    }
  }

  /** Who stopped the guest lets it run on, where it plainly is still. */
  #continueStopped(which: Side, side: SourceSide | DestinationSide, then: MigrationStatus): void {
    const isThere = which === 'source' ? ['setup', 'active', 'cancelled'] : ['postcopy-active', 'completed'];
    this.#try(which, 'cont', () => {
      const isStill = isThere.includes(side.status) || side.status === then;
      if (this.#scenario.isGuestRunning && ['running', 'paused'].includes(side.runState) && isStill)
        side.cont();
    });
  }

  #try(which: Side, what: string, act: () => void, onDone: () => void = () => {}): void {
    this.#side(which).process.run(() => {
      try {
        act();
        this.#world.note(`${which}: ${what}`);
      } catch (error) {
        if (!(error instanceof MigrationError)) throw error;
        this.#world.note(`${which}: ${what} refused: ${error.message}`);
      }
      onDone();
    });
  }

  // ---- the operator's hands and eyes ------------------------------------------------------------------------

  #look(onSeen: (here: Sight, there: Sight) => void): void {
    this.#lookedAtMs = this.#world.nowMs;
    const sights: Partial<Record<Side, Sight>> = {};
    const see = (which: Side, sight: Sight) => {
      if (sights[which] !== undefined) return;
      sights[which] = sight;
      if (sights.source !== undefined && sights.destination !== undefined)
        onSeen(sights.source, sights.destination);
    };
    for (const which of ['source', 'destination'] as const) this.#ask(which, (sight) => see(which, sight));
  }

  #ask(which: Side, onAnswer: (sight: Sight) => void): void {
    const { monitorDelayMs } = this.#scenario.operator;
    const side = this.#side(which);
    this.#world.after(monitorDelayMs * this.#world.random.fraction(), () => {
      if (!side.process.isAlive) {
        // Its host may be down; that is known after a while.
        onAnswer('gone');
        return;
      }
      this.#world.after(ANSWER_MS, () => onAnswer('silent'));
      side.process.run(() => {
        const { view } = side;
        this.#world.after(monitorDelayMs * this.#world.random.fraction(), () => onAnswer(view));
      });
    });
  }

  #carryOut(order: Order, onDone: () => void): void {
    const { random } = this.#world;
    const { monitorDelayMs } = this.#scenario.operator;
    const delayMs = () => monitorDelayMs * random.fraction();
    if (order.to === 'both') {
      this.#tell(
        'destination',
        'migrate_recover',
        () => this.#destination.listen(),
        delayMs,
        () => {
          this.#tell('source', 'migrate -r', () => this.#resume(), delayMs, onDone);
        },
      );
      return;
    }
    const { to, say } = order;
    if (say === 'quit') {
      this.#world.after(delayMs(), () => {
        this.#side(to).kill(false);
        onDone();
      });
      return;
    }
    const act = () => {
      if (say === 'cancel') this.#source.cancel();
      else if (say === 'pause') this.#side(to).pause();
      else this.#side(to).cont();
    };
    this.#tell(to, say, act, delayMs, onDone);
  }

  #tell(to: Side, what: string, act: () => void, delayMs: () => number, onDone: () => void): void {
    let isAnswered = false;
    const answer = () => {
      if (isAnswered) return;
      isAnswered = true;
      onDone();
    };
    this.#world.after(delayMs(), () => this.#try(to, what, act, () => this.#world.after(delayMs(), answer)));
    this.#world.after(ANSWER_MS, answer);
  }

  /** @throws {MigrationError} if there is nothing to recover */
  #resume(): void {
    this.#source.resume();
    const stranger = this.#strangers.shift();
    if (stranger !== undefined) this.#world.note(`network: the address leads to another, who ${stranger}`);
    this.#connect(stranger ?? this.#destination);
    if (stranger !== undefined && this.#world.random.chance(0.5)) this.#visit(this.#destination, stranger);
  }

  /** @returns true to go on: there is another migration */
  #settled(): boolean {
    const isStopping = [this.#source, this.#destination].some(
      (side) => side.process.isAlive && side.isStopping,
    );
    if (this.#lastDeedAtMs >= this.#lookedAtMs || isStopping) {
      // What was seen may not be so any more.
      this.#operator.outcome = undefined;
      return true;
    }
    const { triesAgain } = this.#scenario.operator;
    if (this.#operator.outcome !== 'at-source' || !triesAgain || this.#migrations >= MAX_MIGRATIONS)
      return false;
    if (!this.#source.process.isAlive || this.#source.runState === 'postmigrate') return false;
    this.#hadTrouble = true;
    this.#destination = this.#newDestination();
    this.#operator.outcome = undefined;
    this.#try('source', 'migrate', () => this.#migrate());
    return true;
  }

  // ---- connections -----------------------------------------------------------------------------------------

  /** The source connects to what its address leads to. */
  #connect(target: DestinationSide | Stranger, sinceMs = this.#world.nowMs): void {
    const { nowMs } = this.#world;
    const source = this.#source;
    if (nowMs - sinceMs >= CONNECT_MS) {
      source.process.run(() => source.connectFailed('no connection within 30 s'));
      return;
    }
    if (this.#streamPath.isBlocked || this.#returnPath.isBlocked) {
      this.#world.after(1000, () => this.#connect(target, sinceMs));
      return;
    }
    this.#world.after(this.#streamPath.delayMs + this.#returnPath.delayMs, () => {
      const isThere = target instanceof DestinationSide ? isListening(target) : target !== 'refused';
      if (!isThere) {
        source.process.run(() => source.connectFailed('connect: ECONNREFUSED'));
        return;
      }
      const connection = new Connection(this.#world, this.#streamPath, this.#returnPath);
      this.#connection = connection;
      // What befell the one before is over.
      this.#isConnectionSick = false;
      if (target instanceof DestinationSide) target.accept(connection.far);
      else this.#behave(connection.far, target);
      source.process.run(() => {
        if (!source.connected(connection.near)) connection.near.close();
      });
    });
  }

  /** Somebody else connects to a destination that waits for its source. */
  #visit(destination: DestinationSide, stranger: Stranger): void {
    if (!isListening(destination)) return;
    const { near, far } = new Connection(this.#world, this.#streamPath, this.#returnPath);
    destination.accept(far);
    near.begin();
    if (stranger === 'migrates' || stranger === 'fresh-destination') near.write(Buffer.from('QEVM'));
    if (stranger !== 'silent') this.#world.after(this.#world.random.skewed(1000), () => near.close());
  }

  #behave(end: End, stranger: Stranger): void {
    if (stranger === 'fresh-destination') {
      this.#newDestination().accept(end);
      return;
    }
    end.begin();
    if (stranger === 'migrates') end.write(Buffer.from('QEVM'));
    if (stranger === 'hangs-up') this.#world.after(this.#world.random.skewed(1000), () => end.close());
  }

  /**
   * There and back, behind all that can be under way: what was in precopy is out by then, and each page comes once.
   * From when the network and both sides were themselves again.
   */
  #longestWaitMs(requestedAtMs: number): number {
    if (this.#isConnectionSick) return Number.POSITIVE_INFINITY;
    const { stagingBytes, sendBufferBytes, blocks } = this.#scenario;
    const { delayMs, bytesPerMs } = this.#slowest;
    const pages = pageCountOf(blocks);
    const underWayBytes = pages * (TARGET_PAGE_BYTES + 100) + stagingBytes + sendBufferBytes + 4096;
    const disturbedMs = Math.max(0, this.#disturbedUntilMs - requestedAtMs);
    return disturbedMs + 3 * delayMs + underWayBytes / bytesPerMs + 10;
  }

  // ---- the end ---------------------------------------------------------------------------------------------

  #checkEnd(): void {
    const [source, destination, { outcome }] = [this.#source, this.#destination, this.#operator];
    const pair = `${source.status} / ${destination.status}`;
    for (const error of [source.engine.error, destination.engine.error]) if (isOurMistake(error)) throw error;
    if (outcome === undefined) this.#world.violate('hang', `${pair}, and the operator has no end`);
    if (!this.#hadTrouble && this.#scenario.failure === undefined && pair !== 'completed / completed')
      this.#world.violate('pair', `${pair} without cause`);
    if (this.#scenario.isGuestRunning) this.#checkGuest(pair);
    if (destination.status === 'completed' && destination.process.isAlive) this.#checkCompleted();
  }

  #checkGuest(pair: string): void {
    const { outcome } = this.#operator;
    const { guestAt = 'nowhere' } = this.#world;
    const place = {
      'at-source': 'source',
      'at-destination': this.#destination.place,
      lost: guestAt,
    } as const;
    if (guestAt !== place[outcome as 'lost'])
      this.#world.violate('guest', `the operator finds it ${outcome}, it is ${guestAt} in ${pair}`);
    const isLost = outcome === 'lost' || guestAt === 'nowhere';
    if (isLost && !this.#mayBeLost && this.#scenario.failure !== 'resume')
      this.#world.violate('guest', `it is lost in ${pair}, and what held it was not`);
  }

  #checkCompleted(): void {
    const destination = this.#destination;
    const wrongPage = destination.firstWrongPage;
    if (wrongPage >= 0) this.#world.violate('memory', `page ${wrongPage} is not the guest's`);
    if (destination.blockedVcpus > 0) this.#world.violate('hang', 'a vCPU waits for a page');
    if (this.#hadTrouble || this.#source.status !== 'completed' || !this.#wasPostcopy) return;
    const taken = this.#source.engine.info(this.#world.nowMs).ram?.['postcopy-requests'];
    if (taken !== destination.requests)
      this.#world.violate('requests', `${destination.requests} were sent, ${taken} were taken`);
  }
}

function isListening(destination: DestinationSide): boolean {
  return destination.process.isAlive && (destination.status === 'none' || destination.isListening);
}

/** A peer's violation or a lost connection ends a migration; a mistake of ours must not look like one. */
function isOurMistake(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  return error instanceof AssertionError || error instanceof TypeError || isOurMistake(error.cause);
}

/** The deeds that are left of a plan. */
export function withDeeds(scenario: Scenario, deeds: readonly PlannedDeed[]): Scenario {
  return { ...scenario, deeds };
}
