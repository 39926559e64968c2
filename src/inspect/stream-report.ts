/** What a stream holds, as `postcopy inspect` tells it: the shape of its JSON. */
import type { DecodedCommand } from '../wire/commands.ts';
import type { PageCounts } from './page-census.ts';

/** One thing in the stream, or several of a kind that follow one another. `at` and `endAt` are stream bytes. */
export type StreamItem = { readonly at: number; endAt: number } & (
  | { readonly kind: 'configuration' | 'recovery' | 'eof' }
  | { readonly kind: 'ram-start'; blocks: number; ramBytes: number; readonly pages: PageCounts }
  | {
      readonly kind: 'ram-parts';
      sections: number;
      /** PING between them. */
      pings: number;
      flushes: number;
      readonly pages: PageCounts;
    }
  | { readonly kind: 'ram-end'; readonly pages: PageCounts }
  | { readonly kind: 'command'; readonly command: DecodedCommand; count: number }
  | { readonly kind: 'discards'; readonly idstr: string; commands: number; ranges: number; pages: number }
  | { readonly kind: 'package' | 'devices' | 'description'; readonly lengthBytes: number }
);

export interface BlockReport {
  readonly idstr: string;
  /** null in a recovery whose beginning is not known. */
  readonly lengthBytes: number | null;
  readonly pageSizeBytes: number;
  /** Guest physical address, as `0x…`, with x-ignore-shared. */
  readonly gpa?: string;
  /** Where the block stands in a mapped-ram file. */
  readonly mapped?: { readonly bitmapOffset: number; readonly pagesOffset: number };
  readonly pages: PageCounts;
}

export interface DeviceReport {
  readonly sectionId: number;
  readonly idstr: string;
  readonly instanceId: number;
  readonly versionId: number;
  readonly bodyBytes: number;
  readonly at: number;
}

export interface StreamReport {
  readonly kind: 'precopy' | 'postcopy' | 'mapped-ram' | 'recovery' | 'unknown';
  /** Stream bytes read. */
  readonly bytes: number;
  /** Whether the stream was read to its end, and nothing is wrong with it. */
  readonly isComplete: boolean;
  readonly machineType: string | null;
  readonly uuid: string | null;
  readonly capabilities: readonly string[];
  /** RunState of the source when it stopped its guest, if the devices could be told apart. */
  readonly runState: string | null;
  /** Passes over memory. */
  readonly passes: number;
  readonly blocks: readonly BlockReport[];
  readonly items: readonly StreamItem[];
  /** Items after the last in the list. */
  readonly itemsLeftOut: number;
  readonly devices: readonly DeviceReport[];
  /** What the devices were told apart by; null if they were not. Footers can mislead, a description cannot. */
  readonly devicesBy: 'description' | 'footers' | null;
  readonly error: {
    readonly code: string;
    readonly message: string;
    /** The first illegal stream byte, or where the stream ends too early. */
    readonly at: number;
    /** What was being read, in words. */
    readonly reading: string;
  } | null;
}
