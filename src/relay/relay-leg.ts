/**
 * One connection of a migration through a relay: what the source sends goes to the destination, what that answers goes back.
 *
 *            ┌────────────── stream ──────────────▶
 *     source │ read ─▶ decode ─▶ write what is legal │ destination
 *            ◀──────────── return path ────────────┘
 *
 * Nothing is written that was not decoded as legal, and nothing that is legal waits for what is behind it. Each direction
 * has one buffer, and reads again when all of it that is legal has been written: a side that does not read holds the
 * other one back.
 *
 * The owner waits in poll(2) for what `sourceEvents` and `destinationEvents` ask for, and calls `step()`.
 */

import { MAX_RAM_BYTES } from '../inspect/page-census.ts';
import { connectionError } from '../linux/connection-error.ts';
import { closeFd, readInto, WOULD_BLOCK, writeFrom } from '../linux/fd.ts';
import { SyscallError } from '../linux/libc.ts';
import { type Mapping, mapAnonymous } from '../linux/memory.ts';
import { PollEvent } from '../linux/poll.ts';
import {
  setPeerTimeout,
  setReceiveBuffer,
  setUnsentLowWatermark,
  shutdownWrite,
} from '../linux/socket-options.ts';
import { OpenStreamDecoder } from '../wire/open-stream-decoder.ts';
import { ReturnPathDecoder } from '../wire/return-path-decoder.ts';
import { StreamError } from '../wire/stream-error.ts';
import type { Recording } from './recording.ts';
import type { RelayObserver } from './relay-observer.ts';

const STREAM_BUFFER_BYTES = 256 * 1024;
const RETURN_BUFFER_BYTES = 64 * 1024;
/**
 * What a requested page may wait behind in the kernel here, on its way in and out. A source that pushes more than the
 * destination places would fill all that the kernel offers, at both of our connections.
 */
const UNREAD_BYTES = 512 * 1024;
const UNSENT_BYTES = 128 * 1024;
/** A peer that acknowledges nothing for so long is gone, or the network to it is. */
const PEER_TIMEOUT_MS = 60_000;
/** When the migration is over, how long a side may take to close its connection. */
const LINGER_MS = 10_000;

/**
 * How a leg ended:
 *   done     the stream has passed whole, and the destination has not said that it failed
 *   refused  the destination said that it failed
 *   lost     a connection ended too early
 *   illegal  something came that must not be passed on
 *   stopped  by the operator
 */
export type LegEnd =
  | { readonly kind: 'done' | 'stopped' }
  | { readonly kind: 'refused' | 'lost' | 'illegal'; readonly text: string };

export interface LegFds {
  readonly sourceFd: number;
  readonly destinationFd: number;
  /** Whether bytes can go back to the source, and come from the destination. */
  readonly sourceTakesBytes: boolean;
  readonly destinationSendsBytes: boolean;
}

export interface RelayLegOptions {
  readonly fds: LegFds;
  readonly observer: RelayObserver;
  readonly recording: Recording | undefined;
  readonly clock: () => number;
  /** A package is next, and waits for `passPackage()`. */
  readonly onPackage: () => void;
}

export class RelayLeg {
  readonly fds: LegFds;
  readonly #observer: RelayObserver;
  readonly #recording: Recording | undefined;
  readonly #clock: () => number;

  readonly #stream: Mapping = mapAnonymous(STREAM_BUFFER_BYTES);
  readonly #decoder: OpenStreamDecoder;
  /** Of what is decoded in `#stream`, how much has been written. */
  #streamWritten = 0;
  #streamBytes = 0;
  #isSourceAtEnd = false;

  readonly #back: Mapping = mapAnonymous(RETURN_BUFFER_BYTES);
  readonly #backDecoder = new ReturnPathDecoder({ keepsBitmaps: false });
  /** In `#back`: written, legal, received. */
  #backWritten = 0;
  #backLegal = 0;
  #backEnd = 0;
  #backBytes = 0;
  #isDestinationAtEnd = false;

  #isSourceBlocked = false;
  #isDestinationBlocked = false;
  #wasPostcopy = false;
  /** Nothing more is taken from the source for now. */
  #isHeld = false;
  #isAtPackage = false;
  /** When a side is given up that does not close. */
  #lingersUntilMs: number | undefined;
  #end: LegEnd | undefined;

  constructor({ fds, observer, recording, clock, onPackage }: RelayLegOptions) {
    this.fds = fds;
    this.#observer = observer;
    this.#recording = recording;
    this.#clock = clock;
    const { continued } = observer;
    this.#decoder = new OpenStreamDecoder({
      buffer: this.#stream.bytes,
      handler: observer,
      limits: { ramBytes: MAX_RAM_BYTES },
      ...(continued === undefined || !observer.isPostcopy ? {} : { continued, accept: 'recovery' }),
    });
    for (const [fd, isSocket] of [
      [fds.sourceFd, fds.sourceTakesBytes],
      [fds.destinationFd, fds.destinationSendsBytes],
    ] as const) {
      if (isSocket) setPeerTimeout(fd, PEER_TIMEOUT_MS);
    }
    observer.connected(this.#decoder, () => {
      this.#decoder.pause();
      this.#isAtPackage = true;
      onPackage();
    });
    recording?.begin();
  }

  /** How it ended; its descriptors are closed then. */
  get end(): LegEnd | undefined {
    return this.#end;
  }

  get streamBytes(): number {
    return this.#streamBytes;
  }

  get returnPathBytes(): number {
    return this.#backBytes;
  }

  /** PollEvent bits; 0 if nothing is to be waited for there. */
  get sourceEvents(): number {
    const wantsStream = !this.#isSourceAtEnd && !this.#hasStreamToWrite && !this.#isStopped;
    return (wantsStream ? PollEvent.IN : 0) | (this.#isSourceBlocked ? PollEvent.OUT : 0);
  }

  get destinationEvents(): number {
    const wantsBack = this.fds.destinationSendsBytes && !this.#isDestinationAtEnd && !this.#hasBackToWrite;
    return (wantsBack ? PollEvent.IN : 0) | (this.#isDestinationBlocked ? PollEvent.OUT : 0);
  }

  /** How long to wait at most. */
  waitMs(): number {
    return this.#lingersUntilMs === undefined
      ? Number.POSITIVE_INFINITY
      : Math.max(0, this.#lingersUntilMs - this.#clock());
  }

  /** Moves what can be moved. @param sourceReady @param destinationReady PollEvent bits that poll(2) gave */
  step(sourceReady: number, destinationReady: number): void {
    this.#check(() => {
      if (this.#end === undefined && destinationReady !== 0) this.#stepBack();
      if (this.#end === undefined && this.#isSourceBlocked && sourceReady !== 0) this.#writeBack();
      if (this.#end === undefined && this.#isDestinationBlocked && destinationReady !== 0)
        this.#writeStream();
      if (this.#end === undefined && sourceReady !== 0 && !this.#isSourceAtEnd) this.#stepStream();
      this.#checkEnd();
    });
  }

  /** What is illegal ends the leg. */
  #check(action: () => void): void {
    try {
      action();
    } catch (error) {
      if (!(error instanceof StreamError)) throw error;
      this.#finish({ kind: 'illegal', text: `illegal byte at 0x${error.at.toString(16)}: ${error.message}` });
    }
  }

  /** Takes nothing from the source, as long as its guest cannot have left it: someone looks at another connection of it. */
  hold(isHeld: boolean): void {
    this.#isHeld = isHeld;
  }

  /** The package that waits may pass. */
  passPackage(): void {
    if (!this.#isAtPackage || this.#end !== undefined) return;
    this.#isAtPackage = false;
    this.#decoder.resume();
    this.#check(() => this.#runStream());
  }

  /** The operator wants no more of it, or knows that the connections are dead. */
  stop(end: LegEnd): void {
    this.#finish(end);
  }

  // ---- stream ----------------------------------------------------------------------------------------------

  get #hasStreamToWrite(): boolean {
    return this.#streamWritten < this.#decoder.decoded.length;
  }

  #stepStream(): void {
    if (this.#hasStreamToWrite || this.#isStopped) return;
    const free = this.#decoder.free();
    this.#streamWritten = 0;
    const address = this.#stream.address + BigInt(STREAM_BUFFER_BYTES - free.length);
    const count = this.#attempt('source', () => readInto(this.fds.sourceFd, address, free.length));
    if (count === undefined || count === WOULD_BLOCK) return;
    if (count === 0) {
      this.#onSourceEnd();
      return;
    }
    this.#decoder.commit(count);
    this.#runStream();
  }

  get #isStopped(): boolean {
    return this.#isAtPackage || (this.#isHeld && !this.#wasPostcopy);
  }

  #runStream(): void {
    this.#decoder.run();
    this.#writeStream();
    if (this.#end === undefined && !this.#wasPostcopy && this.#observer.isPostcopy) this.#onPostcopy();
  }

  #writeStream(): void {
    const { decoded } = this.#decoder;
    while (this.#streamWritten < decoded.length) {
      const address = this.#stream.address + BigInt(this.#streamWritten);
      const leftBytes = decoded.length - this.#streamWritten;
      const count = this.#attempt('destination', () => writeFrom(this.fds.destinationFd, address, leftBytes));
      if (count === undefined) return;
      this.#isDestinationBlocked = count === WOULD_BLOCK;
      if (count === WOULD_BLOCK) return;
      this.#recording?.write(decoded.subarray(this.#streamWritten, this.#streamWritten + count));
      this.#streamWritten += count;
      this.#streamBytes += count;
    }
    this.#isDestinationBlocked = false;
  }

  /** The source has sent all it will; the destination may still have something to say. */
  #onSourceEnd(): void {
    this.#isSourceAtEnd = true;
    if (this.#observer.shutStatus !== undefined) return;
    try {
      this.#decoder.end();
    } catch (error) {
      if (!(error instanceof StreamError)) throw error;
      const hint =
        this.#observer.isPostcopyAdvised && !this.#observer.isPostcopy
          ? '; with "postcopy-preempt" on it does that, since a relay takes no other connection: switch it off on both sides'
          : '';
      this.#finish({ kind: 'lost', text: `the source closed its connection: ${error.message}${hint}` });
      return;
    }
    if (this.fds.destinationSendsBytes) shutdownWrite(this.fds.destinationFd);
  }

  #onPostcopy(): void {
    this.#wasPostcopy = true;
    if (this.fds.sourceTakesBytes) setReceiveBuffer(this.fds.sourceFd, UNREAD_BYTES);
    if (this.fds.destinationSendsBytes) setUnsentLowWatermark(this.fds.destinationFd, UNSENT_BYTES);
  }

  // ---- return path -----------------------------------------------------------------------------------------

  get #hasBackToWrite(): boolean {
    return this.#backWritten < this.#backLegal;
  }

  #stepBack(): void {
    if (!this.fds.destinationSendsBytes || this.#isDestinationAtEnd || this.#hasBackToWrite) return;
    this.#back.bytes.copyWithin(0, this.#backLegal, this.#backEnd);
    this.#backEnd -= this.#backLegal;
    this.#backLegal = 0;
    this.#backWritten = 0;
    const address = this.#back.address + BigInt(this.#backEnd);
    const count = this.#attempt('destination', () =>
      readInto(this.fds.destinationFd, address, RETURN_BUFFER_BYTES - this.#backEnd),
    );
    if (count === undefined || count === WOULD_BLOCK) return;
    if (count === 0) {
      this.#onDestinationEnd();
      return;
    }
    const messages = this.#backDecoder.push(this.#back.bytes.subarray(this.#backEnd, this.#backEnd + count));
    this.#backEnd += count;
    this.#backLegal = this.#backEnd - this.#backDecoder.undecidedBytes;
    for (const message of messages) this.#observer.message(message, this.#backBytes + this.#backLegal);
    this.#writeBack();
  }

  #writeBack(): void {
    if (!this.fds.sourceTakesBytes) this.#backWritten = this.#backLegal; // Nobody is there to hear it.
    while (this.#hasBackToWrite) {
      const address = this.#back.address + BigInt(this.#backWritten);
      const leftBytes = this.#backLegal - this.#backWritten;
      const count = this.#attempt('source', () => writeFrom(this.fds.sourceFd, address, leftBytes));
      if (count === undefined) return;
      this.#isSourceBlocked = count === WOULD_BLOCK;
      if (count === WOULD_BLOCK) return;
      this.#backWritten += count;
      this.#backBytes += count;
    }
    this.#isSourceBlocked = false;
  }

  #onDestinationEnd(): void {
    this.#isDestinationAtEnd = true;
    if (this.#observer.shutStatus !== undefined && this.fds.sourceTakesBytes) {
      if (!this.#isSourceAtEnd) shutdownWrite(this.fds.sourceFd);
    }
  }

  // ---- end -------------------------------------------------------------------------------------------------

  /** Whether there is nothing more to pass. */
  #checkEnd(): void {
    if (this.#end !== undefined || this.#hasStreamToWrite || this.#hasBackToWrite) return;
    const { shutStatus } = this.#observer;
    const isOver = shutStatus !== undefined || (this.#isSourceAtEnd && !this.fds.destinationSendsBytes);
    if (isOver) this.#lingersUntilMs ??= this.#clock() + LINGER_MS;
    const hasLingered = this.#lingersUntilMs !== undefined && this.#clock() >= this.#lingersUntilMs;
    const isDestinationDone = this.#isDestinationAtEnd || !this.fds.destinationSendsBytes;
    if (isOver && ((this.#isSourceAtEnd && isDestinationDone) || hasLingered)) {
      this.#finish(
        shutStatus === undefined || shutStatus === 0
          ? { kind: 'done' }
          : { kind: 'refused', text: `the destination says that it failed (status ${shutStatus})` },
      );
      return;
    }
    if (!this.#isDestinationAtEnd || isOver) return;
    // It closed without a word. Without a return path that is its end too, once it has all; the source may be later to close.
    const mayHaveAll = this.#decoder.inTail && !this.#observer.isReturnPathOpen;
    if (mayHaveAll && !this.#isSourceAtEnd && !hasLingered) {
      this.#lingersUntilMs ??= this.#clock() + LINGER_MS;
      return;
    }
    this.#finish(
      mayHaveAll ? { kind: 'done' } : { kind: 'lost', text: 'the destination closed its connection' },
    );
  }

  #finish(end: LegEnd): void {
    if (this.#end !== undefined) return;
    this.#end = end;
    closeFd(this.fds.sourceFd);
    closeFd(this.fds.destinationFd);
  }

  /** Frees the buffers of a leg that has ended. */
  dispose(): void {
    this.#stream.unmap();
    this.#back.unmap();
  }

  /** @returns undefined if the connection is broken; the leg has ended then, or soon will */
  #attempt(side: 'source' | 'destination', call: () => number): number | undefined {
    try {
      return call();
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      if (side === 'destination' && !this.#isDestinationAtEnd) this.#lastWords();
      if (this.#observer.shutStatus !== undefined) {
        // It was over anyway, and one side was quick to leave.
        if (side === 'source') this.#isSourceAtEnd = true;
        else this.#isDestinationAtEnd = true;
        this.#streamWritten = this.#decoder.decoded.length;
        if (side === 'source') this.#backWritten = this.#backLegal;
        return undefined;
      }
      this.#finish({
        kind: 'lost',
        text: `the connection to the ${side} broke: ${connectionError(error).message}`,
      });
      return undefined;
    }
  }

  /** A destination that refuses says why before it closes, which can be read although nothing can be written any more. */
  #lastWords(): void {
    this.#isDestinationAtEnd = true;
    if (!this.fds.destinationSendsBytes || this.#hasBackToWrite) return;
    try {
      const address = this.#back.address + BigInt(this.#backEnd);
      const count = readInto(this.fds.destinationFd, address, RETURN_BUFFER_BYTES - this.#backEnd);
      if (count <= 0) return;
      const messages = this.#backDecoder.push(
        this.#back.bytes.subarray(this.#backEnd, this.#backEnd + count),
      );
      this.#backEnd += count;
      this.#backLegal = this.#backEnd - this.#backDecoder.undecidedBytes;
      for (const message of messages) this.#observer.message(message, this.#backBytes + this.#backLegal);
      this.#writeBack();
    } catch (error) {
      if (!(error instanceof SyscallError) && !(error instanceof StreamError)) throw error;
    }
  }
}
