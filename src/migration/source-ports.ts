/**
 * What the source engine needs from outside: memory to read, writes to learn of, and someone to act on the guest.
 *
 * All calls are synchronous. Effects are requests; their answers come back as inputs of the engine.
 */
import type { PageBitmap } from '../memory/page-bitmap.ts';
import type { RamBlockLayout } from '../memory/ram-block.ts';
import type { PageRun } from './push-order.ts';
import type { MigrationStatus } from './states.ts';

/** Guest memory, by block number (index in `blocks`) and offset within the block. */
export interface SourceMemory {
  readonly blocks: readonly RamBlockLayout[];
  /**
   * Copies one target page to `target[at…]`, or sees to it that its content is sent in place of these bytes. That may be
   * its content of a later moment: a page that is written after it was taken for sent is sent again. With the capability
   * `x-checksum` it must be copied, since the checksum is made of the copy.
   */
  copyPage(block: number, offset: number, target: Uint8Array, at: number): void;
  isZeroPage(block: number, offset: number): boolean;
}

/** Learns which pages the guest writes. */
export interface DirtyTracker {
  /**
   * Begins tracking. A page whose bit stays clear was never touched: it is zero until `sync` reports it.
   *
   * @param touched a bitmap per block, clear; gets the pages that may hold something
   */
  start(touched: readonly PageBitmap[]): void;
  /** Adds every page written since `start` or the last `sync`; writes from now on belong to the next. */
  sync(dirty: readonly PageBitmap[]): void;
  /** Ends tracking; the guest writes at full speed again. May be called twice. */
  stop(): void;
}

export interface SourceEffects {
  /** Stop the guest; answered by `guestPaused`. */
  pauseGuest(): void;
  /** Save the device state; answered by `devicesSaved`. Only after `guestPaused`. */
  saveDevices(): void;
  /** The guest goes on at the source: the migration failed or was cancelled while it stood still. */
  resumeGuest(): void;
  statusChanged(status: MigrationStatus, error: Error | undefined): void;
  passBegins(pass: number): void;
  /** What is given out next may hand the guest over: from here on a driver that dies cannot give it back. */
  guestLeaves?(): void;
  /** The destination asks for pages; whoever wants to know what its guest touches first. */
  pagesRequested?(pages: PageRun): void;
  /** A page that the destination asks for cannot be read yet; `pagesArrived` tells the engine when pages can. */
  pageAwaited?(block: number, page: number): void;
}
