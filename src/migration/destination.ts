/**
 * The destination of a migration, as a state machine without I/O.
 *
 * Whoever drives it reads the stream into `free()`, says `received(count)`, carries out the effects and hands in what
 * comes of them: `devicesLoaded`, `guestResumed`, `machineFailed`, `channelLost`. Faults of the guest do not pass through
 * here but through `PageRequests`, on another thread; the two share the bitmaps of received pages and the request times.
 *
 * In precopy pages are written into memory that the guest does not touch yet. LISTEN, inside the package, turns to
 * placing: from there on the main stream goes on being decoded while the device state is loaded and the guest begins.
 *
 * RUN stands at the end of the package, or follows behind it: a source that knows us (peer-features.ts) says it when we have
 * answered the last PING of the package. Without it the guest never runs here.
 *
 * Before the guest runs here every error ends in `failed`: it still runs at the source. From RUN on every error ends in
 * `postcopy-paused`: the guest runs on until it needs a page that has not come. With another connection, `recover` goes on:
 * the source asks for what is here, and sends the rest. The thread that reads faults is told what was asked for in vain.
 */
import assert from 'node:assert/strict';
import { PageBitmap } from '../memory/page-bitmap.ts';
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import type { Trace } from '../telemetry/trace-events.ts';
import type { Command } from '../wire/commands.ts';
import { decodeGlobalState, GLOBAL_STATE_IDSTR, GLOBAL_STATE_VERSION_ID } from '../wire/device-sections.ts';
import { encodePeerFeatures, PeerFeature } from '../wire/peer-features.ts';
import { encodePong, encodeRecvBitmap, encodeResumeAck, encodeShut } from '../wire/return-path.ts';
import { type BodySectionType, SECTION_FOOTER_BYTES } from '../wire/sections.ts';
import { type ExpectedDevice, StreamDecoder } from '../wire/stream-decoder.ts';
import { StreamError, type StreamErrorCode } from '../wire/stream-error.ts';
import type { StreamHandler } from '../wire/stream-handler.ts';
import type { DestinationEffects, DestinationMemory } from './destination-ports.ts';
import { DestinationStatistics } from './destination-statistics.ts';
import type { DeviceSectionName } from './device-state.ts';
import { BROKEN_OFF } from './lost-connection.ts';
import { MigrationError } from './migration-error.ts';
import type { MigrationInfo } from './migration-info.ts';
import type { RequestTimes } from './page-requests.ts';
import { DESTINATION_MOVES, type MigrationStatus, type PostcopyIncomingState } from './states.ts';

/** The state of a machine's devices may be this long. */
const MAX_DEVICE_STATE_BYTES = 64 * 1024 * 1024;

/** A source that says nothing for so long during a recovery is not one, or is gone. */
export const SOURCE_RECOVERY_SILENCE_MS = 30_000;
/**
 * The same for a source that owes us RUN. It has asked for our answer, and sends RUN at once: this is more than the network
 * takes to notice that it is gone.
 */
export const RUN_SILENCE_MS = 60_000;

/** What we can do that QEMU cannot. */
const FEATURES = PeerFeature.RUN_HANDSHAKE | PeerFeature.CHECKSUMS;

const INCOMING_ORDER: readonly PostcopyIncomingState[] = [
  'none',
  'advise',
  'discard',
  'listening',
  'running',
  'end',
];

export interface DestinationOptions {
  readonly memory: DestinationMemory;
  /** The memory that the stream is read into; `DestinationMemory` is given positions in it. */
  readonly buffer: Uint8Array;
  /** A clear bitmap per block, shared with the thread that reads faults. */
  readonly receivedBitmaps: readonly PageBitmap[];
  readonly requestTimes: RequestTimes;
  readonly machineType: string;
  readonly deviceSection: DeviceSectionName;
  /** Whether the channel carries bytes back. */
  readonly hasReturnPath: boolean;
  /** Of a source that says something every second. Default: it may be silent for as long as it likes. */
  readonly peerTimeoutMs?: number;
  readonly effects: DestinationEffects;
  /** Milliseconds, the clock of all inputs and of the request times: pages are timed one by one as they are placed. */
  readonly clock: () => number;
  readonly trace: Trace;
}

/** What is to be known of a guest that was handed over, beside its memory. */
export interface AdoptedGuest {
  readonly ramSectionId: number;
  /** Pages come with checksums, and go on to. */
  readonly hasChecksums: boolean;
  /** False if it was paused at the source. */
  readonly shouldRun: boolean;
}

/** How long the guest stood still, as it saw it. */
export interface GuestDowntime {
  readonly guestDowntimeUs: number;
  /** False if it rests on the wall clocks of two hosts. */
  readonly isExact: boolean;
}

export class DestinationMigration {
  readonly #options: DestinationOptions;
  #decoder: StreamDecoder;
  /** Of RAM, as the source named it at the beginning. */
  #ramSectionId = 0;
  readonly #statistics: DestinationStatistics;
  readonly #pageCount: number;
  /** Pages that the source said to discard. */
  readonly #discarded: readonly PageBitmap[];

  #status: MigrationStatus = 'none';
  #error: Error | undefined;
  #incoming: PostcopyIncomingState = 'none';
  #isOver = false;
  #isPaused = false;
  /** Why the guest, whose machine has refused to run it, can have no use of more pages. */
  #whyNoRecovery: string | undefined;
  #peerTimeoutMs: number;
  #isReturnPathOpen = false;
  /** The decoder that waits while the machine loads its devices. */
  #waitingDecoder: StreamDecoder | undefined;
  #package: StreamDecoder | undefined;
  #areDevicesLoaded = false;
  /** All of the package is loaded, and it did not hold RUN. */
  #isRunAwaited = false;
  #shouldRun = true;
  #isResuming = false;
  #isGuestOurs = false;
  #isStreamDone = false;
  /** Blocks whose bitmap the source has asked for, on this connection. */
  readonly #toldBlocks = new Set<number>();
  #nowMs = 0;

  constructor(options: DestinationOptions) {
    this.#options = options;
    this.#peerTimeoutMs = options.peerTimeoutMs ?? Number.POSITIVE_INFINITY;
    this.#pageCount = options.receivedBitmaps.reduce((sum, { pageCount }) => sum + pageCount, 0);
    this.#discarded = options.receivedBitmaps.map(({ pageCount }) => new PageBitmap(pageCount));
    this.#statistics = new DestinationStatistics(this.#pageCount * TARGET_PAGE_BYTES);
    this.#decoder = this.#newDecoder();
  }

  get status(): MigrationStatus {
    return this.#status;
  }

  get error(): Error | undefined {
    return this.#error;
  }

  get incomingState(): PostcopyIncomingState {
    return this.#incoming;
  }

  /** Nothing more will come of this migration. Bytes that still arrive are to be read and thrown away. */
  get isOver(): boolean {
    return this.#isOver;
  }

  /** The connection is lost, or was broken off: only `recover` goes on. */
  get isPaused(): boolean {
    return this.#isPaused;
  }

  /** A source that says nothing for so long is lost: the driver says `channelLost`. Infinity if it may be silent. */
  get silenceLimitMs(): number {
    if (this.#isOver || this.#isPaused || this.#isStreamDone) return Number.POSITIVE_INFINITY;
    const timeoutMs = this.#options.hasReturnPath ? this.#peerTimeoutMs : Number.POSITIVE_INFINITY;
    if (this.#status === 'postcopy-recover') return Math.min(SOURCE_RECOVERY_SILENCE_MS, timeoutMs);
    return this.#isRunAwaited ? Math.min(RUN_SILENCE_MS, timeoutMs) : timeoutMs;
  }

  /** `x-peer-timeout`: the source says something every second, also if it has nothing to say. */
  setPeerTimeout(ms: number): void {
    this.#peerTimeoutMs = ms;
  }

  // ---- inputs ----------------------------------------------------------------------------------------------

  start(nowMs: number): void {
    this.#statistics.startedAtMs = nowMs;
    this.#move('setup');
    this.#move('active');
  }

  /**
   * In place of `start`: the thread that drove this postcopy has died after RUN, and its connection with it. What is needed for
   * a recovery is there: the memory, and a bitmap of what has come.
   *
   * @param isGuestOurs whether the machine has answered that it runs the guest
   */
  adopt(
    why: Error,
    { ramSectionId, hasChecksums, shouldRun, isGuestOurs }: AdoptedGuest & { readonly isGuestOurs: boolean },
    nowMs: number,
  ): void {
    this.#nowMs = nowMs;
    this.#statistics.startedAtMs = nowMs;
    this.#decoder = this.#newDecoder({ ramSectionId, hasChecksums });
    this.#shouldRun = shouldRun;
    this.#isReturnPathOpen = true;
    this.#areDevicesLoaded = true;
    this.#isGuestOurs = isGuestOurs;
    this.#isResuming = true;
    this.#incoming = 'running';
    this.#status = 'postcopy-active';
    this.#interrupt(why);
    if (!isGuestOurs) this.#resumeGuest();
  }

  /** What another thread has to know, if this one dies. Once RAM has begun. */
  get guest(): AdoptedGuest {
    const { hasChecksums } = this.#decoder;
    return { ramSectionId: this.#decoder.ramSectionId ?? 0, hasChecksums, shouldRun: this.#shouldRun };
  }

  /** Where to read the stream into; empty while the decoder waits for the machine. */
  free(): Uint8Array {
    return this.#waitingDecoder === this.#decoder
      ? this.#options.buffer.subarray(0, 0)
      : this.#decoder.free();
  }

  /** So many bytes were read into what `free()` returned. */
  received(countBytes: number, nowMs: number): void {
    this.#nowMs = nowMs;
    this.#statistics.receivedBytes += countBytes;
    // Only a VM description can follow EOF. Whatever it is, the guest may run here already.
    if (this.#isOver || this.#isPaused || this.#isStreamDone) return;
    this.#decoder.commit(countBytes);
    this.#run(this.#decoder);
  }

  /** The source closed the connection, or it broke. */
  channelLost(cause: Error | undefined, nowMs: number): void {
    this.#nowMs = nowMs;
    if (this.#isOver || this.#isPaused || this.#isStreamDone) return;
    try {
      if (cause !== undefined) throw cause;
      if (this.#waitingDecoder === this.#decoder)
        throw new MigrationError('The source closed the connection');
      this.#decoder.end();
    } catch (error) {
      this.#lose(error as Error);
    }
  }

  devicesLoaded(nowMs: number): void {
    this.#nowMs = nowMs;
    if (this.#isOver) return;
    const decoder = this.#waitingDecoder;
    assert(decoder !== undefined && !this.#isPaused);
    this.#waitingDecoder = undefined;
    this.#areDevicesLoaded = true;
    decoder.resume();
    this.#run(decoder);
  }

  machineFailed(error: Error, nowMs: number): void {
    this.#nowMs = nowMs;
    if (this.#isOver) return;
    const what = this.#isResuming
      ? 'The guest could not be resumed here'
      : 'The device state could not be loaded';
    const failure = new MigrationError(`${what}: ${error.message}`, { cause: error });
    if (this.#isResuming) this.#whyNoRecovery = failure.message;
    if (!this.#isPaused) this.#lose(failure);
    else {
      // It must not say any longer that it can be recovered.
      this.#error = failure;
      this.#options.effects.statusChanged(this.#status, failure);
    }
  }

  /** Breaks the connection off. @throws {MigrationError} outside postcopy */
  pause(nowMs: number, why = BROKEN_OFF): void {
    const canPause = ['postcopy-active', 'postcopy-recover'].includes(this.#status);
    if (!canPause || !this.#isResuming || this.#isStreamDone) {
      throw new MigrationError(
        `migrate-pause is only supported in state "postcopy-active" or "postcopy-recover", not in "${this.#status}"`,
      );
    }
    this.channelLost(new MigrationError(why), nowMs);
  }

  /** There is a new connection: the source asks what is here. @throws {MigrationError} if there is nothing to recover */
  recover(nowMs: number): void {
    this.#nowMs = nowMs;
    if (!this.#isPaused) throw new MigrationError('Migrate recover can only be run when postcopy is paused.');
    if (this.#whyNoRecovery !== undefined) throw new MigrationError(this.#whyNoRecovery);
    this.#isPaused = false;
    this.#toldBlocks.clear();
    this.#decoder = this.#newDecoder({
      ramSectionId: this.#ramSectionId,
      hasChecksums: this.#decoder.hasChecksums,
    });
    this.#move('postcopy-recover');
  }

  /** @param downtime undefined if the guest stays paused */
  guestResumed(downtime: GuestDowntime | undefined, nowMs: number): void {
    this.#nowMs = nowMs;
    this.#isGuestOurs = true;
    this.#statistics.resumedAtMs = nowMs;
    this.#statistics.downtime = downtime;
    if (!this.#isOver && !this.#isPaused && this.#isStreamDone) this.#complete();
  }

  info(nowMs: number): MigrationInfo {
    return this.#statistics.info(
      this.#status,
      this.#error,
      this.#incoming,
      this.#options.receivedBitmaps,
      nowMs,
    );
  }

  // ---- stream ----------------------------------------------------------------------------------------------

  #newDecoder(resumed?: { readonly ramSectionId: number; readonly hasChecksums: boolean }): StreamDecoder {
    return new StreamDecoder({
      buffer: this.#options.buffer,
      machineType: this.#options.machineType,
      blocks: this.#options.memory.blocks,
      devices: this.#expectedDevices(),
      handler: this.#handler('stream'),
      ...(resumed !== undefined && { resumed }),
    });
  }

  #run(decoder: StreamDecoder): void {
    if (this.#isOver || this.#isPaused) return;
    try {
      decoder.run();
      if (decoder === this.#package && this.#waitingDecoder !== decoder) {
        decoder.end();
        if (!this.#isResuming) this.#awaitRun();
      }
    } catch (error) {
      this.#lose(error as Error);
    }
  }

  #handler(stream: 'stream' | 'package'): StreamHandler {
    const { trace } = this.#options;
    const decoder = () => (stream === 'stream' ? this.#decoder : (this.#package as StreamDecoder));
    return {
      configuration: () => {},
      sectionStart: (type: BodySectionType, sectionId, idstr) => {
        if (!trace.isEnabled('qemu_loadvm_state_section')) return;
        trace.emit('qemu_loadvm_state_section', { type, sectionId, idstr, at: decoder().bytesDecoded });
      },
      sectionEnd: () => {},
      ramBlocks: () => {},
      page: (block, offset, position) => this.#page(block, offset, position),
      zeroPage: (block, offset) => this.#page(block, offset, -1),
      ramSectionEnd: () => {},
      device: (idstr, state) => this.#device(idstr, state, decoder()),
      command: (command) => this.#command(command, stream, decoder().bytesDecoded),
      eof: () => this.#eof(),
      vmDescription: () => {},
    };
  }

  /** @param position of the content in the buffer, or -1 for a zero page */
  #page(block: number, offset: number, position: number): void {
    const { memory, receivedBitmaps } = this.#options;
    const received = receivedBitmaps[block] as PageBitmap;
    const page = offset / TARGET_PAGE_BYTES;
    if (position < 0) this.#statistics.zeroPages++;
    else this.#statistics.normalPages++;
    if (!this.#isListening) {
      if (position < 0) memory.writeZeroPage(block, offset);
      else memory.writePage(block, offset, position);
      received.set(page);
      return;
    }
    this.#placePage(block, page, position, received);
  }

  #placePage(block: number, page: number, position: number, received: PageBitmap): void {
    const { clock, memory, requestTimes, trace } = this.#options;
    // The bitmaps that the source goes by would be out of date.
    if (this.#status === 'postcopy-recover')
      throw this.#refuse('BAD_SECTION', 'A page came before POSTCOPY_RESUME');
    const offset = page * TARGET_PAGE_BYTES;
    // A second copy cannot be told from one that a discard was forgotten for; the memory would be silently wrong.
    if (received.isSet(page)) throw this.#placedTwice(block, offset);
    const placement =
      position < 0 ? memory.placeZeroPage(block, offset) : memory.placePage(block, offset, position);
    if (placement === 'exists') throw this.#placedTwice(block, offset);
    received.set(page);
    const waitedUs = requestTimes.waitedUs(block, page, clock() * 1000);
    if (waitedUs < 0) this.#statistics.pushedPages++;
    else this.#statistics.demandedPage(waitedUs);
    if (trace.isEnabled('postcopy_place_page')) {
      trace.emit('postcopy_place_page', {
        idstr: memory.blocks[block]?.idstr ?? '',
        offset,
        zero: position < 0,
      });
    }
  }

  #placedTwice(block: number, offset: number): StreamError {
    const idstr = this.#options.memory.blocks[block]?.idstr ?? '';
    return this.#refuse('BAD_VALUE', `The page at ${offset} of "${idstr}" came although it is here already`);
  }

  #device(idstr: string, state: Uint8Array, decoder: StreamDecoder): void {
    this.#statistics.deviceBytes += state.length;
    if (idstr === GLOBAL_STATE_IDSTR) {
      this.#shouldRun = this.#runState(state, decoder) === 'running';
      return;
    }
    // A decoder takes each device once, but the stream and its package have one each.
    if (this.#areDevicesLoaded || this.#waitingDecoder !== undefined)
      throw this.#refuse('BAD_SECTION', 'The device state of the machine comes twice');
    this.#waitingDecoder = decoder;
    decoder.pause();
    this.#options.effects.loadDevices(state);
  }

  /** The footer of the section has been decoded already. */
  #runState(state: Uint8Array, decoder: StreamDecoder): string {
    const at = decoder.bytesDecoded - SECTION_FOOTER_BYTES - state.length;
    return decodeGlobalState(state, at, decoder === this.#package ? 'package' : 'stream');
  }

  #eof(): void {
    if (!this.#isListening) {
      if (!this.#areDevicesLoaded)
        throw this.#refuse('BAD_SECTION', 'The stream ended without the device state of the machine');
      if (this.#incoming === 'discard')
        throw this.#refuse(
          'TRUNCATED',
          'The stream ended after pages were discarded and before they came again',
        );
      this.#endStream();
      this.#resumeGuest();
      return;
    }
    if (this.#status === 'postcopy-recover')
      throw this.#refuse('BAD_SECTION', 'The end of the stream came before POSTCOPY_RESUME');
    if (this.#isRunAwaited)
      throw this.#refuse('BAD_SECTION', 'The end of the stream came before POSTCOPY_RUN');
    const missing = this.#missingPages;
    if (missing > 0)
      throw this.#refuse('TRUNCATED', `The source says that all is sent, but ${missing} pages never came`);
    this.#endStream();
    this.#statistics.residentAtMs = this.#nowMs;
    if (this.#isGuestOurs) this.#complete();
  }

  /** Everything that matters has come: from here on nothing that the source sends, or fails to send, changes a thing. */
  #endStream(): void {
    this.#isStreamDone = true;
    this.#decoder.pause();
  }

  // ---- commands --------------------------------------------------------------------------------------------

  #command(command: Command, stream: 'stream' | 'package', at: number): void {
    const { hasReturnPath, effects, trace } = this.#options;
    if (trace.isEnabled('loadvm_process_command')) {
      const bytes = command.type === 'packaged' ? command.bytes.length : 0;
      trace.emit('loadvm_process_command', { command: command.type, bytes, at });
    }
    switch (command.type) {
      case 'open-return-path':
        if (!hasReturnPath)
          throw this.#refuse('BAD_COMMAND', 'The source asks for a return path, which this channel has not');
        this.#isReturnPathOpen = true;
        effects.sendReturnPath(encodePong(encodePeerFeatures(FEATURES)));
        return;
      case 'ping':
        if (trace.isEnabled('send_rp_message')) trace.emit('send_rp_message', { message: 'pong', bytes: 4 });
        effects.sendReturnPath(encodePong(command.value));
        return;
      case 'postcopy-advise':
        this.#advise(command.pageSizeSummary, command.targetPageBytes);
        return;
      case 'postcopy-ram-discard':
        for (const { start, lengthBytes } of command.ranges) this.#discard(command.idstr, start, lengthBytes);
        return;
      case 'packaged':
        this.#beginPackage(command.bytes);
        return;
      case 'postcopy-listen':
        if (stream !== 'package') throw this.#refuse('BAD_COMMAND', 'POSTCOPY_LISTEN came outside a package');
        this.#listen();
        return;
      case 'postcopy-run':
        if (!this.#areDevicesLoaded)
          throw this.#refuse('BAD_COMMAND', 'POSTCOPY_RUN came before the device state');
        this.#isRunAwaited = false;
        this.#moveIncoming('running', ['listening']);
        this.#move('postcopy-active');
        this.#resumeGuest();
        return;
      case 'switchover-start':
        return;
      case 'recv-bitmap':
        if (this.#status !== 'postcopy-recover') break;
        this.#sendBitmap(command.idstr);
        return;
      case 'postcopy-resume':
        if (this.#status !== 'postcopy-recover') break;
        this.#goOn();
        return;
      default:
    }
    throw this.#refuse('BAD_COMMAND', `Command "${command.type}" has no place in state "${this.#status}"`);
  }

  #advise(pageSizeSummary: number, targetPageBytes: number): void {
    const { memory } = this.#options;
    const ours = memory.blocks.reduce((bits, { pageSizeBytes }) => bits | pageSizeBytes, 0);
    if (pageSizeSummary !== ours || targetPageBytes !== TARGET_PAGE_BYTES) {
      throw this.#refuse(
        'BAD_VALUE',
        `Page sizes differ: the source has ${pageSizeSummary} (host) and ${targetPageBytes} (target), ` +
          `here are ${ours} and ${TARGET_PAGE_BYTES}`,
      );
    }
    if (!this.#isReturnPathOpen)
      throw this.#refuse('BAD_COMMAND', 'POSTCOPY_ADVISE came without a return path');
    this.#moveIncoming('advise', ['none']);
    memory.checkPostcopy();
    memory.dropAll();
  }

  #discard(idstr: string, start: number, lengthBytes: number): void {
    const { memory, receivedBitmaps, trace } = this.#options;
    if (this.#incoming !== 'discard') {
      this.#moveIncoming('discard', ['advise']);
      memory.prepareDiscards();
    }
    const block = memory.blocks.findIndex((candidate) => candidate.idstr === idstr);
    assert(block >= 0, 'the decoder has checked the block');
    if (trace.isEnabled('postcopy_ram_discard_range')) {
      trace.emit('postcopy_ram_discard_range', { idstr, start, lengthBytes });
    }
    const [firstPage, pageCount] = [start / TARGET_PAGE_BYTES, lengthBytes / TARGET_PAGE_BYTES];
    // Each page once: a few bytes could drop all of memory, again and again.
    const known = this.#discarded[block]?.nextSet(firstPage, firstPage + pageCount) ?? -1;
    if (known >= 0)
      throw this.#refuse(
        'BAD_VALUE',
        `The source discards the page at ${known * TARGET_PAGE_BYTES} of "${idstr}" twice`,
      );
    memory.discard(block, start, lengthBytes);
    receivedBitmaps[block]?.clearRange(firstPage, pageCount);
    this.#discarded[block]?.setRange(firstPage, pageCount);
  }

  #beginPackage(bytes: Uint8Array): void {
    if (this.#package !== undefined) throw this.#refuse('BAD_COMMAND', 'A second package came');
    this.#statistics.packageAtMs = this.#nowMs;
    this.#package = new StreamDecoder({
      buffer: bytes,
      machineType: this.#options.machineType,
      blocks: this.#options.memory.blocks,
      devices: this.#expectedDevices(),
      handler: this.#handler('package'),
      embedded: true,
    });
    this.#package.free();
    this.#package.commit(bytes.length);
    this.#run(this.#package);
  }

  #listen(): void {
    if (this.#incoming === 'advise') this.#options.memory.prepareDiscards();
    this.#moveIncoming('listening', ['advise', 'discard']);
    this.#discardUnsent();
    this.#options.memory.listen();
    this.#move('postcopy-device');
  }

  /** The package has ended without RUN: the source says that when it has our answer, and may take its guest back until then. */
  #awaitRun(): void {
    if (this.#incoming !== 'listening' || !this.#areDevicesLoaded) {
      const what = this.#areDevicesLoaded ? 'POSTCOPY_LISTEN' : 'the device state of the machine';
      throw this.#refuse('BAD_SECTION', `The package ended without ${what}`);
    }
    if (this.#isStreamDone)
      throw this.#refuse('BAD_SECTION', 'The end of the stream came before POSTCOPY_RUN');
    this.#isRunAwaited = true;
  }

  /** Pages that neither came nor were discarded may hold zeros, of a huge page that another page came into. */
  #discardUnsent(): void {
    const { memory, receivedBitmaps } = this.#options;
    receivedBitmaps.forEach((received, block) => {
      const known = this.#discarded[block] as PageBitmap;
      known.addAll(received);
      known.complement().forEachRun((firstPage, pageCount) => {
        memory.discard(block, firstPage * TARGET_PAGE_BYTES, pageCount * TARGET_PAGE_BYTES);
      });
    });
  }

  get #isListening(): boolean {
    return INCOMING_ORDER.indexOf(this.#incoming) >= INCOMING_ORDER.indexOf('listening');
  }

  // ---- recovery --------------------------------------------------------------------------------------------

  #sendBitmap(idstr: string): void {
    const { memory, receivedBitmaps, trace, effects } = this.#options;
    const block = memory.blocks.findIndex((candidate) => candidate.idstr === idstr);
    const received = receivedBitmaps[block];
    assert(received !== undefined, 'the decoder has checked the block');
    // A few bytes ask for megabytes.
    if (this.#toldBlocks.has(block))
      throw this.#refuse('BAD_COMMAND', `The source asks twice which pages of "${idstr}" are here`);
    this.#toldBlocks.add(block);
    const message = encodeRecvBitmap(idstr, received.toBytes());
    if (trace.isEnabled('send_rp_message'))
      trace.emit('send_rp_message', { message: 'recv-bitmap', bytes: message.length });
    effects.sendReturnPath(message);
  }

  /** Pages come again from here on, those first that the guest waits for. */
  #goOn(): void {
    const { effects, trace } = this.#options;
    this.#error = undefined;
    const pausedMs = this.#statistics.interruptions.ended(this.#nowMs);
    this.#move('postcopy-active');
    if (trace.isEnabled('send_rp_message'))
      trace.emit('send_rp_message', { message: 'resume-ack', bytes: 4 });
    effects.sendReturnPath(encodeResumeAck());
    effects.requestPagesAgain();
    if (trace.isEnabled('postcopy_pause_incoming_continued')) {
      const { recoveries } = this.#statistics.interruptions;
      const missingPages = this.#missingPages;
      trace.emit('postcopy_pause_incoming_continued', { missingPages, recoveries, pausedMs });
    }
  }

  #interrupt(why: Error): void {
    const missing = this.#missingPages;
    const lost = this.#status === 'postcopy-recover' ? 'Recovery failed' : 'Connection lost in postcopy';
    this.#error = new MigrationError(
      this.#whyNoRecovery ??
        `${lost}: ${why.message}. The guest runs here until it needs one of ${missing} pages that are only at the ` +
          'source. Keep both processes, and recover the migration: migrate_recover here, then "migrate -r" at the source',
      { cause: why },
    );
    this.#isPaused = true;
    this.#ramSectionId = this.#decoder.ramSectionId ?? this.#ramSectionId;
    this.#statistics.interruptions.began(this.#nowMs);
    this.#move('postcopy-paused');
    if (this.#options.trace.isEnabled('postcopy_pause_incoming'))
      this.#options.trace.emit('postcopy_pause_incoming', { missingPages: missing });
  }

  // ---- ends ------------------------------------------------------------------------------------------------

  #resumeGuest(): void {
    this.#isResuming = true;
    this.#options.effects.resumeGuest(this.#shouldRun);
  }

  #complete(): void {
    if (this.#isListening) {
      this.#options.memory.end();
      this.#moveIncoming('end', ['running']);
    } else {
      this.#statistics.residentAtMs = this.#statistics.resumedAtMs;
    }
    this.#statistics.endedAtMs = this.#nowMs;
    this.#isOver = true;
    this.#shut(0);
    this.#move('completed');
  }

  /** The stream cannot be taken further. */
  #lose(error: Error): void {
    if (this.#isOver || this.#isPaused) return;
    this.#decoder.pause();
    this.#package?.pause();
    if (this.#isResuming && this.#isListening) {
      this.#interrupt(error);
      return;
    }
    this.#isOver = true;
    this.#statistics.endedAtMs = this.#nowMs;
    this.#error = error;
    this.#shut(1);
    this.#move('failed');
  }

  #shut(status: number): void {
    if (!this.#isReturnPathOpen) return;
    if (this.#options.trace.isEnabled('send_rp_message')) {
      this.#options.trace.emit('send_rp_message', { message: 'shut', bytes: 4 });
    }
    this.#options.effects.sendReturnPath(encodeShut(status));
  }

  #move(to: MigrationStatus): void {
    const from = this.#status;
    assert(DESTINATION_MOVES[from].includes(to), `no move from ${from} to ${to}`);
    this.#status = to;
    if (this.#options.trace.isEnabled('migrate_set_state')) {
      this.#options.trace.emit('migrate_set_state', { side: 'destination', from, to });
    }
    this.#options.effects.statusChanged(to, this.#error);
  }

  #moveIncoming(to: PostcopyIncomingState, allowedFrom: readonly PostcopyIncomingState[]): void {
    const from = this.#incoming;
    if (!allowedFrom.includes(from)) {
      throw this.#refuse('BAD_COMMAND', `Postcopy cannot go from "${from}" to "${to}"`);
    }
    this.#incoming = to;
    if (this.#options.trace.isEnabled('postcopy_incoming_state')) {
      this.#options.trace.emit('postcopy_incoming_state', { from, to });
    }
  }

  #refuse(code: StreamErrorCode, what: string): StreamError {
    return new StreamError(code, what, this.#decoder.bytesDecoded);
  }

  get #missingPages(): number {
    return this.#pageCount - this.#options.receivedBitmaps.reduce((sum, bitmap) => sum + bitmap.count(), 0);
  }

  #expectedDevices(): ExpectedDevice[] {
    const globalState = { idstr: GLOBAL_STATE_IDSTR, instanceId: 0, versionId: GLOBAL_STATE_VERSION_ID };
    return [
      { ...globalState, body: 'global-state', maxBytes: 0 },
      { ...this.#options.deviceSection, body: 'length-prefixed', maxBytes: MAX_DEVICE_STATE_BYTES },
    ];
  }
}
