/**
 * What the destination engine needs from outside: memory to fill, and someone to act on the guest and answer the source.
 *
 * All calls are synchronous. Effects are requests; their answers come back as inputs of the engine.
 */
import type { RamBlockLayout } from '../memory/ram-block.ts';
import type { MigrationStatus } from './states.ts';

/** Guest memory, by block number (index in `blocks`) and offset within the block. */
export interface DestinationMemory {
  readonly blocks: readonly RamBlockLayout[];

  /** @throws {Error} saying what is missing, if faults of guest memory cannot be handled on this host */
  checkPostcopy(): void;
  /** Drops all pages: everything comes from the source. */
  dropAll(): void;
  /** Precopy: the guest does not run yet. `position` is in the decoder's buffer. */
  writePage(block: number, offset: number, position: number): void;
  /** Precopy. Leaves the page present, so that it raises no fault later. */
  writeZeroPage(block: number, offset: number): void;
  /** From here on pages go missing one by one: no huge page may fill a gap. Called once, before the first `discard`. */
  prepareDiscards(): void;
  discard(block: number, offset: number, lengthBytes: number): void;
  /** From here on every touch of a missing page waits for `placePage` or `placeZeroPage`, and is reported. */
  listen(): void;
  /** @returns `exists` if a page is there already */
  placePage(block: number, offset: number, position: number): 'placed' | 'exists';
  placeZeroPage(block: number, offset: number): 'placed' | 'exists';
  /** Every page is there: memory is ordinary again, huge pages included. */
  end(): void;
}

export interface DestinationEffects {
  /** Bytes for the source, a whole message. */
  sendReturnPath(message: Uint8Array): void;
  /** Answered by `devicesLoaded`. */
  loadDevices(state: Uint8Array): void;
  /** The guest is ours. Answered by `guestResumed`; @param shouldRun false if it was paused at the source */
  resumeGuest(shouldRun: boolean): void;
  /**
   * After a recovery: ask once more for every page that was asked for and has not come, and send requests from here on.
   * From `postcopy-paused` until then none may be sent.
   */
  requestPagesAgain(): void;
  statusChanged(status: MigrationStatus, error: Error | undefined): void;
}
