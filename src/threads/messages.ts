/**
 * The messages between threads, all of them.
 *
 *   main ◀──▶ machine thread        MachineRequest / MachineReply over a port; MachineNotice over the worker's own
 *   main ◀──▶ migration thread      MigrationOrder / MigrationNotice
 *   migration ◀──▶ machine thread   MachineRequest / MachineReply over a port of their own, so that the pause of the guest
 *                                   never waits for the main thread
 *
 *   main ◀──▶ fetching thread       FetchOrder / FetchNotice; and from the source thread that sends the pages on, PageDemand
 *
 * A migration thread sits in poll(2): whoever posts to it also signals its eventfd.
 */
import type { MessagePort } from 'node:worker_threads';
import type { V86MachineOptions } from '../machine/v86/v86-options.ts';
import type { RamBlock } from '../memory/ram-block.ts';
import type { Capabilities } from '../migration/capabilities.ts';
import type { AdoptedGuest, GuestDowntime } from '../migration/destination.ts';
import type { DeviceSectionName } from '../migration/device-state.ts';
import type { FetchInfo } from '../migration/fetcher.ts';
import type { MigrationInfo } from '../migration/migration-info.ts';
import type { Parameters } from '../migration/parameters.ts';
import type { PulledSnapshot } from '../migration/pull-session.ts';
import type { PageRun } from '../migration/push-order.ts';
import type { MigrationStatus } from '../migration/states.ts';
import type { SnapshotBlockData } from '../snapshot/snapshot.ts';
import type { ReceivedCounts, SnapshotContents } from '../snapshot/snapshot-receiver.ts';
import type { TraceEvents, TraceName } from '../telemetry/trace-events.ts';
import type { SharedFaultThread } from './fault-thread-control.ts';
import type { FetchedPagesData } from './fetched-pages.ts';
import type { SharedReturnPath } from './return-path-writer.ts';

// ---- machine -----------------------------------------------------------------------------------------------

export type MachineRequest = { readonly id: number } & (
  | { readonly kind: 'pause' }
  | { readonly kind: 'resume' }
  | { readonly kind: 'save-devices' }
  | { readonly kind: 'load-devices'; readonly state: Uint8Array }
);

export type MachineReply = { readonly id: number } & (
  | { readonly kind: 'paused'; readonly wasRunning: boolean }
  /** `downtime` is there the first time after a state was loaded. */
  | { readonly kind: 'resumed'; readonly downtime: GuestDowntime | undefined }
  | { readonly kind: 'devices-saved'; readonly state: Uint8Array }
  | { readonly kind: 'devices-loaded' }
  | { readonly kind: 'failed'; readonly message: string }
);

/** From the machine thread to the main thread, unasked. */
export type MachineNotice =
  | {
      readonly kind: 'ready';
      readonly machineType: string;
      readonly ramBlocks: readonly RamBlock[];
      readonly deviceSection: DeviceSectionName;
    }
  | { readonly kind: 'unusable'; readonly message: string }
  | { readonly kind: 'serial'; readonly bytes: Uint8Array }
  | { readonly kind: 'released' }
  /** The port of an `attach` is closed, and its eventfd not used any more. */
  | { readonly kind: 'detached'; readonly wakeFd: number | undefined }
  | {
      readonly kind: 'guest';
      readonly event: 'reset' | 'halted' | 'crashed' | 'deaf';
      readonly message: string;
    };

/** From the main thread to the machine thread, without a reply. */
export type MachineOrder =
  /** `wakeFd` must stay open until `detached`, or the end of the machine thread. */
  | { readonly kind: 'attach'; readonly port: MessagePort; readonly wakeFd: number | undefined }
  /** The migration that stopped the guest has ended: who may let it run is the main thread's to decide again (`released`). */
  | { readonly kind: 'release' }
  | { readonly kind: 'serial'; readonly bytes: Uint8Array };

/** What kind of machine a machine thread makes. */
export type MachineThreadData = { readonly kind: 'v86' } & Omit<V86MachineOptions, 'onSerial' | 'onEvent'>;

// ---- migration ---------------------------------------------------------------------------------------------

/** From the main thread to a migration thread. */
export type MigrationOrder =
  | { readonly kind: 'cancel'; readonly id: number }
  | { readonly kind: 'start-postcopy'; readonly id: number }
  /** Break the connection off; by `migrate-pause`, unless it says why. */
  | { readonly kind: 'pause'; readonly id: number; readonly why?: string }
  /** There is a new connection for a postcopy that is paused. The descriptor is the thread's, also if it refuses. */
  | { readonly kind: 'recover'; readonly id: number; readonly fd: number }
  | { readonly kind: 'set-parameters'; readonly parameters: Parameters }
  | { readonly kind: 'set-traces'; readonly names: readonly TraceName[] }
  | { readonly kind: 'query'; readonly id: number }
  /** The command or file behind a channel without a return path is done. */
  | { readonly kind: 'peer-finished'; readonly error: string | undefined }
  /** Give the descriptors back and end, whatever the state. */
  | { readonly kind: 'close' };

/** From a migration thread to the main thread. */
export type MigrationNotice =
  /** `isGuestElsewhere`: the destination has run the guest, so that what is here is out of date. */
  | {
      readonly kind: 'status';
      readonly status: MigrationStatus;
      readonly error: string | undefined;
      readonly isGuestElsewhere: boolean;
    }
  | { readonly kind: 'pass'; readonly pass: number }
  /** Source: the guest stands still on behalf of the migration, or runs on here; and whether it ran before. */
  | { readonly kind: 'guest'; readonly isRunning: boolean; readonly wasRunning: boolean }
  /** Destination: RUN has come. If the thread dies, another can go on from here. */
  | ({ readonly kind: 'run' } & AdoptedGuest)
  /** Destination, in precopy: the guest is about to run. If the thread dies, it may. */
  | { readonly kind: 'resuming' }
  /** Destination: the guest is here; it runs, or stays paused as it was or as it was asked for. */
  | { readonly kind: 'arrived'; readonly isRunning: boolean }
  | { readonly kind: 'answer'; readonly id: number; readonly error: string | undefined }
  | { readonly kind: 'info'; readonly id: number; readonly info: MigrationInfo }
  | {
      readonly kind: 'trace';
      readonly name: TraceName;
      readonly fields: TraceEvents[TraceName];
      readonly atMs: number;
    }
  /** Destination: postcopy was announced, so there must be a thread that reads faults. */
  | { readonly kind: 'fault-thread-wanted' }
  /**
   * The thread has closed its descriptor, perhaps as it died. Before the status `postcopy-paused`, so that whoever hears of
   * that may hand in another.
   */
  | { readonly kind: 'channel-closed' }
  /** All is sent and the descriptor is closed; `peer-finished` is awaited. */
  | { readonly kind: 'flushed' }
  /** The last word: the thread ends. */
  | { readonly kind: 'ended'; readonly info: MigrationInfo };

/** The thread that was there before has died in postcopy: this one waits for an order that brings another connection. */
interface Succession {
  readonly why: string;
  /** Source: it was known that the destination has come to RUN. Destination: the machine had answered that it runs the guest. */
  readonly hasMoved: boolean;
}

interface ChannelThreadData {
  /** The channel's descriptor: the thread owns it. -1 if there is none, as the thread before has died. */
  readonly fd: number;
  readonly hasReturnPath: boolean;
  readonly orders: MessagePort;
  /** Signalled by whoever posts to one of the ports. */
  readonly wakeFd: number;
  readonly traces: readonly TraceName[];
}

/** Values of `SourceLoopData.departure`. */
export const Departure = { HERE: 0, PRECOPY: 1, POSTCOPY: 2, GONE: 3 } as const;

/** What every source thread is given, whatever it sends. */
export interface SourceLoopData extends ChannelThreadData {
  /** One shared word, `Departure`: whether the guest may have left, or has; undefined if nobody asks. */
  readonly departure?: Int32Array | undefined;
  readonly succession?: Succession | undefined;
  readonly capabilities: Capabilities;
  readonly parameters: Parameters;
}

/** What a thread that moves a guest of this process is given. */
interface GuestThreadData {
  readonly blocks: readonly RamBlock[];
  readonly machineType: string;
  readonly deviceSection: DeviceSectionName;
  readonly machine: MessagePort;
}

export interface SourceThreadData extends SourceLoopData, GuestThreadData {
  /** The bitmap of dirty pages of each block, which the main thread may show. */
  readonly dirtyWords: readonly Int32Array[];
  /** Only for synchronous dirty tracking: the fault thread, and what it notes. */
  readonly writeFaults:
    | { readonly control: SharedFaultThread; readonly notedWords: readonly Int32Array[] }
    | undefined;
  /** One shared word: the userfaultfd that tracks writes without a fault thread, while it is open. */
  readonly trackingUffd: Int32Array;
}

/** A thread that sends a snapshot. */
export interface SnapshotThreadData extends SourceLoopData {
  /** For reading, and for errors. They stay the main thread's. */
  readonly snapshotFd: number;
  readonly snapshotPath: string;
  readonly machineType: string;
  /** 16 bytes, if the stream is to name it. */
  readonly uuid: Uint8Array | undefined;
  readonly ramSectionId: number;
  readonly blocks: readonly SnapshotBlockData[];
  /** FULL sections. */
  readonly deviceSections: Uint8Array;
  /** The VMDESCRIPTION record, or nothing. */
  readonly description: Uint8Array;
  readonly pushFirst: readonly PageRun[];
  readonly quietBeforePushMs: number;
  /** Words of a `PageRecording`, if page requests are to be recorded. */
  readonly recordingWords: Int32Array | undefined;
  /** Whether the destination asks for all that it wants (`SourceOptions.isPulled`). */
  readonly isPulled: boolean;
  /** Whether a lost connection is waited for (`SourceOptions.isRecoverable`). */
  readonly isRecoverable: boolean;
  /** If the pages are only being fetched: where they are, and where to say which are needed. */
  readonly fetched: { readonly pages: FetchedPagesData; readonly demands: MessagePort } | undefined;
}

// ---- fetching ----------------------------------------------------------------------------------------------

/** The thread that fetches a snapshot from a server. */
export interface FetchThreadData {
  readonly orders: MessagePort;
  /** Signalled by whoever posts to one of the ports; it stays the main thread's. */
  readonly wakeFd: number;
  /** Wakes the thread that sends the pages on. */
  readonly senderWakeFd: number;
  /** Undefined: nothing is kept. */
  readonly cacheFolder: string | undefined;
  /** Of what the guest has not asked for; 0 is no limit. */
  readonly maxBytesPerSecond: number;
}

/** From the main thread to the fetching one. */
export type FetchOrder =
  /** A connection to the server, the thread's from now on. */
  | { readonly kind: 'connect'; readonly fd: number }
  /** Answers `identified`: fetch, in this order first. Who sends the pages on says at `demands` which it needs. */
  | { readonly kind: 'begin'; readonly first: readonly PageRun[]; readonly demands: MessagePort }
  | { readonly kind: 'query'; readonly id: number }
  /** Give all back and end. */
  | { readonly kind: 'close' };

/** From the fetching thread to the main thread. */
export type FetchNotice =
  | {
      readonly kind: 'identified';
      readonly snapshot: Omit<PulledSnapshot, 'blocks' | 'content'> & {
        readonly blocks: readonly SnapshotBlockData[];
      };
      readonly pages: FetchedPagesData;
      /** Path of the cache's pages; undefined if there is no cache. */
      readonly cachePath: string | undefined;
    }
  /** Another session goes on where one was lost. */
  | { readonly kind: 'resumed' }
  /** The connection is closed. */
  | {
      readonly kind: 'lost';
      /** `store`: what comes has no place here. */
      readonly cause: 'connection' | 'protocol' | 'other-snapshot' | 'store';
      readonly error: string;
    }
  /** Pages do not go to the cache (any more); undefined: as it was asked for. */
  | { readonly kind: 'not-kept'; readonly why: string | undefined }
  /** All is here. */
  | { readonly kind: 'complete' }
  | { readonly kind: 'info'; readonly id: number; readonly info: FetchInfo };

/** From the thread that sends pages on to the one that fetches them: the guest waits for this one. */
export interface PageDemand {
  readonly block: number;
  readonly page: number;
}

export interface DestinationThreadData extends ChannelThreadData, GuestThreadData {
  /** The bitmap of received pages of each block, shared with the fault thread and the main thread. */
  readonly receivedWords: readonly Int32Array[];
  readonly requestTimes: Int32Array;
  readonly faultThread: SharedFaultThread;
  readonly returnPath: SharedReturnPath;
  /** The guest is not started, whatever it did at the source. */
  readonly staysPaused: boolean;
  /** `x-peer-timeout`; `set-parameters` changes it. */
  readonly peerTimeoutMs: number;
  readonly succession: (Succession & { readonly guest: AdoptedGuest }) | undefined;
}

// ---- save --------------------------------------------------------------------------------------------------

/** A thread that makes a snapshot of the stream of a source. It is there before the source comes. */
export interface SaveThreadData {
  readonly orders: MessagePort;
  /** Signalled by whoever posts an order. */
  readonly wakeFd: number;
  readonly path: string;
  readonly overwrite: boolean;
  /** The stream is read to its end also when there will be no file. */
  readonly mustDrain: boolean;
}

/** From the main thread to a thread that saves. */
export type SaveOrder =
  /** The first: the source has come. The thread owns the descriptor of its channel from now on. */
  | { readonly kind: 'start'; readonly fd: number; readonly hasReturnPath: boolean }
  /** After `received`: the source says that it has completed. */
  | { readonly kind: 'finish' }
  /** No file is to be left. Too late once it is finished. */
  | { readonly kind: 'abandon' };

/** Whose fault a failed save is: the file cannot be written, the stream cannot be read, or it ended early. */
export type SaveFailureCause = 'file' | 'stream' | 'connection' | 'abandoned';

/** From a thread that saves to the main thread. */
export type SaveNotice =
  /** The thread is there, and waits for a source. */
  | { readonly kind: 'ready' }
  /** The file is there under a name that is not its own yet. The descriptor is the thread's. */
  | { readonly kind: 'file'; readonly partialPath: string; readonly fd: number }
  | { readonly kind: 'progress'; readonly counts: ReceivedCounts }
  /** The source closed without having opened a return path: whether it has completed only its monitor can tell. */
  | { readonly kind: 'received' }
  /** The file has its name and is on the disk, and the source was told, if it can be. */
  | {
      readonly kind: 'saved';
      readonly contents: SnapshotContents;
      readonly counts: ReceivedCounts;
      /** From the last byte of the stream until the file was safe. */
      readonly finishMs: number;
    }
  /** There is no file, and the source was told, if it can be. */
  | { readonly kind: 'failed'; readonly cause: SaveFailureCause; readonly message: string }
  /** The descriptor is closed. */
  | { readonly kind: 'channel-closed' };
