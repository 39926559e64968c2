/**
 * What a seed decides before anything happens: the guest, the network, the settings, and what will go wrong.
 *
 * What goes wrong is a list of deeds of the network, of the processes and of people who try a command. The procedure that
 * puts things right again is the operator's (operator.ts). Without a deed a scenario must simply succeed, and a scenario
 * that fails is made smaller by leaving deeds out.
 */

import { type RamBlockLayout, TARGET_PAGE_BYTES } from '../../src/memory/ram-block.ts';
import { DEFAULT_PARAMETERS, type Parameters } from '../../src/migration/parameters.ts';
import type { MigrationStatus } from '../../src/migration/states.ts';
import type { Direction } from './network.ts';
import type { Random } from './random.ts';

/** What the network does. */
export type NetworkDeed =
  | { readonly do: 'cut' }
  | { readonly do: 'half-close'; readonly direction: Direction }
  | { readonly do: 'stall'; readonly direction: Direction }
  /** Of the path for so long, or of the connection for ever. */
  | { readonly do: 'blackhole'; readonly direction: Direction | 'both'; readonly forMs: number | undefined }
  | { readonly do: 'path'; readonly delayMs: number; readonly bytesPerMs: number };

/** What befalls a process. */
export type ProcessDeed =
  /** `isSilent`: with its host, so that nothing is closed. */
  | { readonly do: 'kill'; readonly side: Side; readonly isSilent: boolean }
  | { readonly do: 'freeze'; readonly side: Side; readonly forMs: number }
  | { readonly do: 'thread-dies'; readonly side: Side }
  | { readonly do: 'fault-thread-dies' };

/** A command that somebody tries at this moment, sensible or not. */
export type CommandDeed =
  | {
      readonly do:
        | 'start-postcopy'
        | 'cancel'
        | 'set-parameters'
        | 'query'
        | 'migrate-again'
        | 'resume'
        | 'recover';
    }
  | { readonly do: 'pause'; readonly side: Side }
  | { readonly do: 'stop'; readonly side: Side; readonly forMs: number };

export type Deed = NetworkDeed | ProcessDeed | CommandDeed;
export type Side = 'source' | 'destination';

/** So long after the start, or after the source entered a state for the `nth` time. */
export interface PlannedDeed {
  readonly deed: Deed;
  readonly afterStatus: MigrationStatus | undefined;
  readonly nth: number;
  readonly delayMs: number;
}

export interface Link {
  readonly delayMs: number;
  readonly bytesPerMs: number;
}

export interface Scenario {
  readonly blocks: readonly RamBlockLayout[];
  readonly streamLink: Link;
  readonly returnLink: Link;
  /** How far the source's kernel lets it write ahead of the network. */
  readonly sendBufferBytes: number;
  readonly stagingBytes: number;
  /** The most that one write or one read moves; small ones cut everything in two. */
  readonly mostBytesAtOnce: number;
  readonly hasReturnPath: boolean;
  readonly isPostcopyOn: boolean;
  /** The destination does not say that it waits for RUN, as a QEMU: it is in the package then. */
  readonly isRunInPackage: boolean;
  readonly parameters: Parameters;
  readonly isGuestRunning: boolean;
  readonly guest: GuestPlan;
  /** How long the machine takes for anything, at most. */
  readonly machineDelayMs: number;
  readonly deviceStateBytes: number;
  /** What the machine of the first destination, or of the source, cannot do. */
  readonly failure: 'save' | 'load' | 'resume' | undefined;
  /** The pages of the source come from elsewhere, each within so much time; undefined: they are there. */
  readonly fetchMs: number | undefined;
  readonly operator: OperatorPlan;
  readonly deeds: readonly PlannedDeed[];
}

export interface GuestPlan {
  readonly vcpus: number;
  /** Mean time between two writes at the source; Infinity for an idle guest. */
  readonly writeEveryMs: number;
  /** The guest writes to this many of its pages most of the time. */
  readonly workingSetPages: number;
  /** How often each vCPU touches a page at the destination before it has seen enough. */
  readonly touches: number;
  readonly touchEveryMs: number;
  /** All vCPUs touch at the same moments, mostly the same pages. */
  readonly isBursty: boolean;
}

export interface OperatorPlan {
  /** How long it takes to look, and to do something about it. */
  readonly lookEveryMs: number;
  /** How long an answer or a command is under way. */
  readonly monitorDelayMs: number;
  /** So many attempts to recover reach somebody else, each in another way. */
  readonly strangers: readonly Stranger[];
  /** After a migration that failed, or was cancelled, another is begun. */
  readonly triesAgain: boolean;
}

/** Who is reached in place of the peer: one that hangs up, one that says nothing, one that migrates, or a fresh destination. */
export type Stranger = 'hangs-up' | 'silent' | 'migrates' | 'fresh-destination' | 'refused';

export function pageCountOf(blocks: readonly RamBlockLayout[]): number {
  return blocks.reduce((sum, { lengthBytes }) => sum + lengthBytes / TARGET_PAGE_BYTES, 0);
}

export function planScenario(random: Random): Scenario {
  const isLarge = random.chance(0.04);
  const blocks = Array.from({ length: random.integer(1, 3) }, (_, index) => ({
    idstr: ['pc.ram', 'vga.vram', 'pc.bios'][index] as string,
    lengthBytes: random.integer(1, isLarge ? 200 : index === 0 ? 40 : 6) * TARGET_PAGE_BYTES,
    pageSizeBytes: TARGET_PAGE_BYTES,
  }));
  const pages = pageCountOf(blocks);
  const bytesPerMs = random.pick([500, 2000, 10_000, 100_000]);
  const streamLink = { delayMs: random.skewed(40), bytesPerMs };
  const returnLink = random.chance(0.6)
    ? streamLink
    : { delayMs: random.skewed(80), bytesPerMs: random.pick([100, 2000, 100_000]) };
  const passMs = (pages * TARGET_PAGE_BYTES) / bytesPerMs + streamLink.delayMs + returnLink.delayMs;
  const hasReturnPath = !random.chance(0.08);
  const isPostcopyOn = hasReturnPath && random.chance(0.8);
  return {
    blocks,
    streamLink,
    returnLink,
    sendBufferBytes: random.pick([0, 4096, 65_536]),
    stagingBytes: random.pick([16, 20, 64]) * 1024,
    mostBytesAtOnce: random.pick([700, 20_000, 70_000, 70_000]),
    hasReturnPath,
    isPostcopyOn,
    isRunInPackage: random.chance(0.2),
    parameters: planParameters(random, passMs),
    isGuestRunning: !random.chance(0.08),
    guest: planGuest(random, pages, passMs),
    machineDelayMs: random.pick([0.1, 2, 20]),
    deviceStateBytes: random.pick([1, 300, 5000, 40_000]),
    failure: random.chance(0.06) ? random.pick(['save', 'load', 'resume'] as const) : undefined,
    fetchMs: isPostcopyOn && random.chance(0.12) ? random.pick([1, 30, 500]) : undefined,
    operator: planOperator(random),
    deeds: planDeeds(random, passMs, isPostcopyOn),
  };
}

export function planParameters(random: Random, passMs: number): Parameters {
  return {
    ...DEFAULT_PARAMETERS,
    'max-bandwidth': random.pick([0, 0, 128 * 2 ** 20, 300_000, 100_000]),
    'max-postcopy-bandwidth': random.pick([0, 0, 30_000, 300_000]),
    'downtime-limit': random.pick([0, 0, 1, 10, 300]),
    'x-postcopy-start-time': random.pick([0, 0, 1 + Math.round(random.fraction() * 2 * passMs)]),
    'x-switchover-timeout': random.pick([30_000, 30_000, 300, 0]),
  };
}

function planGuest(random: Random, pages: number, passMs: number): GuestPlan {
  const writeEveryMs = Math.max(0.3, passMs / random.pick([1, 5, 20, 60]));
  return {
    vcpus: random.integer(1, 4),
    writeEveryMs: random.chance(0.1) ? Number.POSITIVE_INFINITY : writeEveryMs,
    workingSetPages: random.integer(1, pages),
    touches: random.chance(0.1) ? 0 : random.pick([5, 40, 40]),
    touchEveryMs: Math.min(2000, writeEveryMs * random.pick([0.1, 1, 1, 20])),
    isBursty: random.chance(0.3),
  };
}

function planOperator(random: Random): OperatorPlan {
  const strangers = random.chance(0.2) ? random.integer(1, 3) : 0;
  return {
    lookEveryMs: random.pick([5, 100, 1000]) * (0.5 + random.fraction()),
    monitorDelayMs: random.skewed(300),
    strangers: Array.from({ length: strangers }, () =>
      random.pick(['hangs-up', 'silent', 'migrates', 'fresh-destination', 'refused'] as const),
    ),
    triesAgain: random.chance(0.5),
  };
}

const ANYWHERE: readonly MigrationStatus[] = [
  'setup',
  'active',
  'device',
  'device',
  'postcopy-device',
  'postcopy-device',
  'postcopy-active',
  'postcopy-active',
  'postcopy-paused',
  'postcopy-recover-setup',
  'postcopy-recover',
  'completed',
];

/** Mostly one thing goes wrong, often nothing, sometimes much, and now and then the same again and again. */
function planDeeds(random: Random, passMs: number, isPostcopyOn: boolean): PlannedDeed[] {
  const deeds: PlannedDeed[] = [];
  const plan = (deed: Deed, statuses: readonly MigrationStatus[], nth = 1) => {
    const isAfterStatus = random.chance(0.7);
    deeds.push({
      deed,
      afterStatus: isAfterStatus ? random.pick(statuses) : undefined,
      nth,
      delayMs: isAfterStatus ? random.skewed(passMs + 30) : random.fraction() * passMs * 3,
    });
  };
  if (isPostcopyOn && random.chance(0.75)) plan({ do: 'start-postcopy' }, ['setup', 'active']);
  const troubles = random.pick([0, 1, 1, 1, 2, 4]);
  for (let trouble = 0; trouble < troubles; trouble++) plan(planTrouble(random, passMs), ANYWHERE);
  const commands = random.pick([0, 0, 0, 1, 2, 3]);
  for (let command = 0; command < commands; command++) plan(planCommand(random), ANYWHERE);
  if (isPostcopyOn && random.chance(0.3)) planInterruptions(random, passMs, plan);
  return deeds;
}

/** Cuts fall into the handshake of a recovery, which takes some round trips, or into what follows. */
function planInterruptions(
  random: Random,
  passMs: number,
  plan: (deed: Deed, statuses: readonly MigrationStatus[], nth: number) => void,
): void {
  const count = random.integer(1, 5);
  for (let nth = 1; nth <= count; nth++)
    plan(planNetworkTrouble(random, passMs), ['postcopy-active', 'postcopy-recover'], nth);
}

function planTrouble(random: Random, passMs: number): Deed {
  if (random.chance(0.65)) return planNetworkTrouble(random, passMs);
  const side = random.pick(['source', 'destination'] as const);
  const kind = random.pick(['kill', 'kill', 'freeze', 'thread-dies', 'fault-thread-dies'] as const);
  switch (kind) {
    case 'kill':
      return { do: kind, side, isSilent: random.chance(0.3) };
    case 'freeze':
      return { do: kind, side, forMs: random.skewed(100_000) };
    case 'thread-dies':
      return { do: kind, side };
    case 'fault-thread-dies':
      return { do: kind };
  }
}

function planNetworkTrouble(random: Random, passMs: number): NetworkDeed {
  const direction = random.pick(['stream', 'return-path'] as const);
  const kind = random.pick(['cut', 'cut', 'half-close', 'stall', 'blackhole', 'blackhole', 'path'] as const);
  switch (kind) {
    case 'cut':
      return { do: kind };
    case 'half-close':
    case 'stall':
      return { do: kind, direction };
    case 'blackhole':
      return {
        do: kind,
        direction: random.chance(0.5) ? 'both' : direction,
        forMs: random.chance(0.3) ? undefined : random.pick([passMs, 1000, 100_000]) * random.fraction(),
      };
    case 'path':
      return {
        do: kind,
        delayMs: random.skewed(200),
        bytesPerMs: random.pick([300, 2000, 100_000]),
      };
  }
}

function planCommand(random: Random): Deed {
  const side = random.pick(['source', 'destination'] as const);
  const kind = random.pick([
    'cancel',
    'cancel',
    'pause',
    'stop',
    'set-parameters',
    'query',
    'migrate-again',
    'resume',
    'recover',
  ] as const);
  if (kind === 'pause') return { do: kind, side };
  if (kind === 'stop') return { do: kind, side, forMs: random.skewed(2000) };
  return { do: kind };
}
