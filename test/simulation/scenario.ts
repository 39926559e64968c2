/**
 * What a seed decides before anything happens: the guest, the network, the settings, and what will go wrong.
 */

import { type RamBlockLayout, TARGET_PAGE_BYTES } from '../../src/memory/ram-block.ts';
import { DEFAULT_PARAMETERS, type Parameters } from '../../src/migration/parameters.ts';
import type { MigrationStatus } from '../../src/migration/states.ts';
import type { Random } from './random.ts';

export type Deed =
  | 'start-postcopy'
  | 'cancel'
  | 'cut'
  | 'pause-source'
  | 'pause-destination'
  | 'set-parameters'
  | 'query';

/** Something the operator or the network does: so long after the start, or after the source entered a state. */
export interface PlannedDeed {
  readonly deed: Deed;
  readonly afterStatus: MigrationStatus | undefined;
  readonly delayMs: number;
}

export interface Scenario {
  readonly blocks: readonly RamBlockLayout[];
  readonly link: { readonly delayMs: number; readonly bytesPerMs: number };
  /** How far the source's kernel lets it write ahead of the network. */
  readonly sendBufferBytes: number;
  readonly stagingBytes: number;
  /** The most that one write or one read moves; small ones cut everything in two. */
  readonly mostBytesAtOnce: number;
  readonly hasReturnPath: boolean;
  readonly isPostcopyOn: boolean;
  readonly parameters: Parameters;
  readonly isGuestRunning: boolean;
  readonly vcpus: number;
  /** Mean time between two writes of the guest. */
  readonly writeEveryMs: number;
  /** The guest writes to this many of its pages most of the time. */
  readonly workingSetPages: number;
  /** How long the machine takes for anything, at most. */
  readonly machineDelayMs: number;
  readonly deviceStateBytes: number;
  readonly failure: 'save' | 'load' | 'resume' | undefined;
  readonly deeds: readonly PlannedDeed[];
  /** The pages of the source come from elsewhere, each within so much time; undefined: they are there. */
  readonly fetchMs: number | undefined;
  /** What the operator does about a postcopy that is interrupted. */
  readonly recovery: RecoveryPlan | undefined;
}

export interface RecoveryPlan {
  /** How long it takes to look, and to do something about it. */
  readonly lookEveryMs: number;
  /** So many of the new connections break as well, some time after they were made. */
  readonly cuts: readonly { readonly afterMs: number }[];
  /** So many of the attempts reach somebody else, before the first that does not. */
  readonly wrongPeers: number;
}

export function pageCountOf(blocks: readonly RamBlockLayout[]): number {
  return blocks.reduce((sum, { lengthBytes }) => sum + lengthBytes / TARGET_PAGE_BYTES, 0);
}

export function planScenario(random: Random): Scenario {
  const blocks = Array.from({ length: random.integer(1, 3) }, (_, index) => ({
    idstr: ['pc.ram', 'vga.vram', 'pc.bios'][index] as string,
    lengthBytes: random.integer(1, index === 0 ? 40 : 6) * TARGET_PAGE_BYTES,
    pageSizeBytes: TARGET_PAGE_BYTES,
  }));
  const pages = pageCountOf(blocks);
  const link = { delayMs: random.skewed(40), bytesPerMs: random.pick([500, 2000, 10_000, 100_000]) };
  const passMs = (pages * TARGET_PAGE_BYTES) / link.bytesPerMs + 2 * link.delayMs;
  const hasReturnPath = !random.chance(0.1);
  const isPostcopyOn = hasReturnPath && random.chance(0.75);
  return {
    blocks,
    link,
    sendBufferBytes: random.pick([0, 4096, 65_536]),
    stagingBytes: random.pick([16, 20, 64]) * 1024,
    mostBytesAtOnce: random.pick([700, 20_000, 70_000, 70_000]),
    hasReturnPath,
    isPostcopyOn,
    parameters: planParameters(random, passMs),
    isGuestRunning: !random.chance(0.1),
    vcpus: random.integer(1, 4),
    writeEveryMs: Math.max(0.3, passMs / random.pick([1, 5, 20, 60])),
    workingSetPages: random.integer(1, pages),
    machineDelayMs: random.pick([0.1, 2, 20]),
    deviceStateBytes: random.pick([1, 300, 5000, 40_000]),
    failure: random.chance(0.06) ? random.pick(['save', 'load', 'resume'] as const) : undefined,
    deeds: planDeeds(random, passMs, isPostcopyOn),
    fetchMs: isPostcopyOn && random.chance(0.15) ? random.pick([1, 30, 500]) : undefined,
    recovery: isPostcopyOn && random.chance(0.8) ? planRecovery(random, link.delayMs, passMs) : undefined,
  };
}

export function planParameters(random: Random, passMs: number): Parameters {
  return {
    ...DEFAULT_PARAMETERS,
    'max-bandwidth': random.pick([0, 0, 128 * 2 ** 20, 300_000, 100_000]),
    'max-postcopy-bandwidth': random.pick([0, 0, 30_000, 300_000]),
    'downtime-limit': random.pick([0, 0, 1, 10, 300]),
    'x-postcopy-start-time': random.pick([0, 0, 1 + Math.round(random.fraction() * 2 * passMs)]),
  };
}

function planDeeds(random: Random, passMs: number, isPostcopyOn: boolean): PlannedDeed[] {
  const deeds: PlannedDeed[] = [];
  const plan = (deed: Deed, statuses: readonly MigrationStatus[]) => {
    const isAfterStatus = random.chance(0.6);
    deeds.push({
      deed,
      afterStatus: isAfterStatus ? random.pick(statuses) : undefined,
      delayMs: isAfterStatus ? random.skewed(passMs + 30) : random.fraction() * passMs * 3,
    });
  };
  if (isPostcopyOn && random.chance(0.75)) plan('start-postcopy', ['setup', 'active']);
  if (random.chance(0.12)) plan('cancel', ['active', 'device', 'postcopy-device', 'postcopy-active']);
  if (isPostcopyOn && random.chance(0.2)) plan('cut', ['postcopy-active']);
  if (isPostcopyOn && random.chance(0.05))
    plan(random.pick(['pause-source', 'pause-destination'] as const), ['postcopy-active']);
  if (random.chance(0.2))
    plan('cut', ['active', 'device', 'postcopy-device', 'postcopy-active', 'postcopy-active']);
  if (random.chance(0.2)) plan('set-parameters', ['active', 'postcopy-active']);
  if (random.chance(0.2)) plan('query', ['setup', 'device', 'postcopy-active', 'completed']);
  return deeds;
}

/** Cuts fall into the handshake, which takes some round trips, or into what follows. */
function planRecovery(random: Random, delayMs: number, passMs: number): RecoveryPlan {
  return {
    lookEveryMs: 1 + random.fraction() * 300,
    cuts: Array.from({ length: random.integer(0, 4) }, () => ({
      afterMs: random.chance(0.6) ? random.fraction() * (7 * delayMs + 1) : random.fraction() * (passMs + 30),
    })),
    wrongPeers: random.chance(0.2) ? random.integer(1, 3) : 0,
  };
}
