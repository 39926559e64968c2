/**
 * What became of a migration: for people, formatted elsewhere, and for programs as JSON, as it is.
 *
 * Figures are absent when neither side tells them. Times are in milliseconds, sizes in bytes.
 */
import type { Outcome } from './judge-outcome.ts';
import type { MachineIdentity } from './machine-identity.ts';
import type { Side, WatchedMachine } from './watched-machine.ts';

export interface SideReport {
  readonly address: string;
  readonly program?: string;
  readonly machineType?: string;
  /** `process-ended` or `no-answer` if its monitor says nothing any more. */
  readonly monitor: 'answers' | 'no-answer' | 'process-ended';
  /** Of `query-migrate` and `query-status`; the last known. */
  readonly migrationStatus: string;
  readonly runState: string;
}

export interface TimelineEntry {
  /** Since the migration was started. */
  readonly atMs: number;
  readonly side: Side;
  readonly status: string;
}

export interface MigrationReport {
  readonly outcome: Outcome;
  readonly exitCode: number;
  /** What happened and where the guest is, in a sentence or two. */
  readonly text: string;
  readonly guestAt: 'source' | 'destination' | 'unknown';
  /** Whether the guest runs, where that is known. */
  readonly isGuestRunning?: boolean;
  readonly uri?: string;
  /** Why and when the switch to postcopy was asked for. */
  readonly postcopy?: { readonly why: string; readonly atMs: number };
  readonly recoveries: number;
  readonly totalMs?: number;
  readonly downtimeMs?: number;
  /** By whom `downtimeMs` was measured. */
  readonly downtimeBy?: Side;
  readonly passes?: number;
  readonly memoryBytes?: number;
  readonly transferredBytes?: number;
  readonly precopyBytes?: number;
  readonly downtimeBytes?: number;
  readonly postcopyBytes?: number;
  readonly pageRequests?: number;
  /** For how long processors of the guest waited for pages, all of them at once. */
  readonly blocktimeMs?: number;
  readonly timeline: readonly TimelineEntry[];
  readonly source?: SideReport;
  readonly destination?: SideReport;
  /** What else an operator should know. */
  readonly notes: readonly string[];
}

/** The figures that the two sides tell. */
export function figuresOf(source: WatchedMachine, destination: WatchedMachine): Partial<MigrationReport> {
  const { info } = source;
  const { ram } = info;
  const guestDowntimeUs = destination.info['x-guest-downtime-us'];
  const downtimeMs = guestDowntimeUs === undefined ? info.downtime : guestDowntimeUs / 1000;
  return withoutUndefined({
    totalMs: info['total-time'],
    downtimeMs,
    downtimeBy:
      downtimeMs === undefined ? undefined : guestDowntimeUs === undefined ? 'source' : 'destination',
    passes: ram?.['dirty-sync-count'],
    memoryBytes: ram?.total,
    transferredBytes: ram?.transferred,
    precopyBytes: ram?.['precopy-bytes'],
    downtimeBytes: ram?.['downtime-bytes'],
    postcopyBytes: ram?.['postcopy-bytes'],
    pageRequests: ram?.['postcopy-requests'],
    blocktimeMs: destination.info['postcopy-blocktime'],
  });
}

/** One side; undefined for one that was never reached. */
export function sideReport(
  machine: WatchedMachine | undefined,
  identity: MachineIdentity | undefined,
): SideReport | undefined {
  if (machine === undefined) return undefined;
  return {
    address: machine.address,
    ...withoutUndefined({ program: identity?.program, machineType: identity?.machineType }),
    monitor: machine.isGone ? 'process-ended' : machine.isSilent ? 'no-answer' : 'answers',
    migrationStatus: machine.status,
    runState: machine.runState,
  };
}

/** The same without members that are undefined. */
export function withoutUndefined<Value extends object>(
  value: Value,
): { [Key in keyof Value]?: Exclude<Value[Key], undefined> } {
  return Object.fromEntries(Object.entries(value).filter(([, each]) => each !== undefined)) as never;
}
