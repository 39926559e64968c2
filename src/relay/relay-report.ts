/** What a relay has seen of a migration: the shape of its JSON. */
import type { PageCounts } from '../inspect/page-census.ts';
import type { LatencySummary } from '../migration/migration-info.ts';

/**
 * The state of the migration as the bytes that pass tell it, by QEMU's names. `device`: the guest stands still and its
 * devices are under way. `none`: nobody has come yet.
 */
export type RelayState =
  | 'none'
  | 'setup'
  | 'active'
  | 'device'
  | 'postcopy-device'
  | 'postcopy-active'
  | 'postcopy-paused'
  | 'postcopy-recover'
  | 'completed'
  | 'failed';

export interface RelayReport {
  readonly state: RelayState;
  /** Whether the destination said that it has the guest. Without a return path it cannot, and `completed` means less. */
  readonly isConfirmed: boolean;
  /** When each state began, from the first connection on. */
  readonly states: readonly { readonly state: RelayState; readonly atMs: number }[];
  readonly elapsedMs: number;
  readonly machineType: string | null;
  readonly ramBytes: number;
  readonly blocks: number;
  /** Connections of the source: one, and one for each recovery. */
  readonly connections: number;
  /** Bytes that have passed. */
  readonly streamBytes: number;
  readonly returnPathBytes: number;
  /** Passes over memory; see page-census.ts. */
  readonly passes: number;
  readonly precopyPages: PageCounts;
  readonly postcopyPages: PageCounts;
  readonly deviceStateBytes: number;
  /** Commands by their names in QEMU, e.g. `PING`. */
  readonly commands: Readonly<Record<string, number>>;
  readonly discards: { readonly commands: number; readonly ranges: number; readonly pages: number };
  readonly requests: {
    /** Page requests that went up. */
    readonly count: number;
    /** Those of a page that had already come down. */
    readonly late: number;
    /** From a request going up to the last byte of its pages coming down, at this hop. */
    readonly latencyUs: LatencySummary | null;
  };
  readonly recording: { readonly path: string; readonly bytes: number; readonly error: string | null } | null;
  readonly error: string | null;
}
