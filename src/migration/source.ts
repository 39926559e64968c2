/**
 * The source of a migration, as a state machine without I/O.
 *
 * Whoever drives it owns the sockets, the clock and the guest. It calls `fill` whenever the channel can take bytes, hands
 * in what came back, and carries out the effects:
 *
 *   fill(target)      the next bytes to send; 0 means nothing to send before `wakeAtMs` or the next input
 *   sent(bytes)       so many of them have left for good
 *   receive(bytes)    the return path
 *   guestPaused, devicesSaved, channelLost, cancel, startPostcopy, pagesArrived, pause, recover
 *
 * Phases, and what `fill` gives in each:
 *
 *   greeting    nothing: with `x-checksum` the destination must have said that it knows checksums
 *   precopy     dirty pages, pass after pass, as PART sections within `max-bandwidth`
 *   settling    nothing: the destination is decoding what is under way, while the guest still runs
 *   pausing     nothing: the guest is being stopped; then the last dirty scan, and the state is `device`
 *   final       (precopy converged) the END section with what remains; then devices are saved and sent
 *   saving      nothing: the device state is being made
 *   handover    (postcopy) discards and the package, or RUN where that is held back; its last byte hands the guest over
 *   loading     what is asked for: the destination loads the package that it has, and will say so; then RUN goes out
 *   postcopy    requested pages first, then pushed pages within the bulk window; those that can be read yet
 *   ending      nothing: all is sent, the destination's SHUT is awaited
 *   paused      nothing: the connection is lost in postcopy; `recover` says that there is another
 *   recovering  (on the new connection) asks what the destination has, and then whether it is ready to go on
 *   over
 *
 * Until the last byte of RUN, or of the precopy stream, has left, the source can take its guest back (handover.ts). It still
 * can when the destination says SHUT with an error and has not shown that it has come to RUN.
 *
 * What was under way when a connection was lost may have arrived or not. So nothing of it is believed: the destination says
 * page by page what it has, and everything else is sent, once more if need be. A recovery that fails changes nothing.
 */
import assert from 'node:assert/strict';
import type { PageBitmap } from '../memory/page-bitmap.ts';
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import type { Trace } from '../telemetry/trace-events.ts';
import { ByteWriter } from '../wire/byte-writer.ts';
import {
  encodeAdvise,
  encodeCommand,
  encodePackagedHeader,
  encodePing,
  encodeRecvBitmapCommand,
  MigrationCommand,
  PingValue,
} from '../wire/commands.ts';
import { decodePeerFeatures, PeerFeature } from '../wire/peer-features.ts';
import { memSizeMaxBytes, PAGE_RECORD_CONTINUE_BYTES } from '../wire/ram-record.ts';
import type { ReturnPathMessage } from '../wire/return-path.ts';
import { ReturnPathDecoder } from '../wire/return-path-decoder.ts';
import {
  EOF_BYTES,
  fileHeaderBytes,
  SECTION_START_MAX_BYTES,
  writeEof,
  writeFileHeader,
} from '../wire/sections.ts';
import { StreamError } from '../wire/stream-error.ts';
import { AwaitedPages } from './awaited-pages.ts';
import { BulkWindow } from './bulk-window.ts';
import type { Capabilities } from './capabilities.ts';
import { ControlQueue } from './control-queue.ts';
import {
  type DeviceEncoder,
  encodePackage,
  RAM_SECTION_ID,
  RUN_COMMAND,
  type StreamMessage,
} from './device-state.ts';
import { DirtyPages } from './dirty-pages.ts';
import { encodeDirtyDiscards } from './discards.ts';
import { Handover } from './handover.ts';
import { HeldPages } from './held-pages.ts';
import { BROKEN_OFF, describeLostConnection, HOW_TO_RECOVER, LOOK_THERE } from './lost-connection.ts';
import { MigrationError } from './migration-error.ts';
import type { MigrationInfo } from './migration-info.ts';
import {
  checkWaitingRequests,
  locateRequest,
  PageRequestQueue,
  RangeAllowance,
} from './page-request-queue.ts';
import type { Parameters } from './parameters.ts';
import { PeerWatch } from './peer-watch.ts';
import { PingLedger } from './ping-ledger.ts';
import { type PageRun, PushOrder } from './push-order.ts';
import { EMPTY_RAM_END_BYTES, RAM_SECTION_TAIL_BYTES, RamWriter } from './ram-writer.ts';
import { RateLimiter } from './rate-limiter.ts';
import type { DirtyTracker, SourceEffects, SourceMemory } from './source-ports.ts';
import { SourceStatistics } from './source-statistics.ts';
import { type MigrationStatus, SOURCE_MOVES } from './states.ts';

/** Least free space that `fill` can work with: a page and all that may stand around it. */
export const MIN_FILL_BYTES = 16 * 1024;

const PING_BYTES = 5 + 4;
/** A precopy section is not begun for less than this. */
const MIN_PRECOPY_CHUNK_BYTES = 16 * 1024;

/** How long the timed or commanded switch waits for what is under way. */
const SETTLE_MS = 1000;

/** A destination that says nothing for so long during a recovery is not one, or is gone. */
export const RECOVERY_SILENCE_MS = 30_000;

type Phase =
  | 'idle'
  | 'greeting'
  | 'precopy'
  | 'settling'
  | 'pausing'
  | 'final'
  | 'saving'
  | 'handover'
  | 'loading'
  | 'postcopy'
  | 'ending'
  | 'paused'
  | 'recovering'
  | 'over';

export interface SourceOptions {
  readonly memory: SourceMemory;
  readonly dirtyTracker: DirtyTracker;
  /** A clear bitmap per block, perhaps shared with a thread that shows it. */
  readonly dirtyBitmaps: readonly PageBitmap[];
  readonly machineType: string;
  /** Subsection `configuration/uuid` of the stream: 16 bytes. Default: none. */
  readonly uuid?: Uint8Array | undefined;
  readonly encodeDevices: DeviceEncoder;
  /** Section id of RAM, which no device section may have. Default: `RAM_SECTION_ID`. */
  readonly ramSectionId?: number;
  /** Pages that postcopy pushes before all others, as long as nothing is asked for. Default: none. */
  readonly pushFirst?: readonly PageRun[];
  /** Postcopy pushes only when nothing has been asked for during so many milliseconds. Default: 0. */
  readonly quietBeforePushMs?: number;
  /**
   * A bitmap per block of the pages that can be read, in which another thread sets pages as they come: the others are sent
   * later. Only for a migration that is to be in postcopy before it sends pages. Default: all can be read.
   */
  readonly availablePages?: readonly PageBitmap[];
  /**
   * The destination is one of ours that fetches its memory: it asks for every page that it wants, takes pages that no
   * discard names for zero, and says SHUT when it has enough. Nothing is pushed. Default: false.
   */
  readonly isPulled?: boolean;
  /**
   * A connection that is lost in postcopy is waited for: `recover` goes on with another. Default: false, the migration is
   * over then.
   */
  readonly isRecoverable?: boolean;
  /**
   * The destination is one that answers as long as it is there: it is asked when nothing else is sent, and given up after
   * `x-peer-timeout`. Default: false, it may be silent for as long as it likes.
   */
  readonly isPeerWatched?: boolean;
  readonly capabilities: Capabilities;
  readonly parameters: Parameters;
  /** Whether the channel carries bytes back. Without, the migration ends when everything is sent. */
  readonly hasReturnPath: boolean;
  readonly effects: SourceEffects;
  readonly trace: Trace;
}

export class SourceMigration {
  readonly #options: SourceOptions;
  readonly #pages: DirtyPages;
  readonly #requests = new PageRequestQueue();
  readonly #ranges: RangeAllowance;
  #returnPath = new ReturnPathDecoder();
  readonly #pings = new PingLedger();
  readonly #window = new BulkWindow();
  readonly #limiter = new RateLimiter();
  readonly #statistics = new SourceStatistics();
  readonly #ram: RamWriter;
  readonly #control = new ControlQueue();
  readonly #pushOrder: PushOrder;
  /** Only where pages may not be readable yet. */
  readonly #awaited: AwaitedPages | undefined;
  readonly #quietBeforePushMs: number;
  readonly #totalBytes: number;

  #parameters: Parameters;
  #status: MigrationStatus = 'none';
  #error: Error | undefined;
  #phase: Phase = 'idle';
  /** Where `pausing` leads. */
  #isPostcopyWanted = false;
  #isGuestPaused = false;
  #wasGuestRunning = false;
  #producedBytes = 0;
  #sentBytes = 0;
  readonly #handover = new Handover();
  /** What hands the guest over has been given out. */
  #hasLeft = false;
  #settlingPing = 0;
  #settlingSinceMs = 0;
  #passStartedAtMs = 0;
  /** Byte of the return path where the message begins that is being handled. */
  #returnPathBytes = 0;
  /** When a page was last asked for; at first, when postcopy began. */
  #requestedAtMs = 0;
  /** Of the pages to push none can be read: more must arrive. */
  #isStarved = false;
  /** What the destination says it has, during a recovery. */
  #heldPages: HeldPages | undefined;
  /** When the return path last said anything; during a recovery, at first when that began. */
  #heardAtMs = 0;
  readonly #peer = new PeerWatch();

  constructor(options: SourceOptions) {
    const { blocks } = options.memory;
    for (const { idstr, pageSizeBytes } of blocks) {
      if (pageSizeBytes !== TARGET_PAGE_BYTES) {
        throw new MigrationError(
          `Block "${idstr}" has host pages of ${pageSizeBytes} bytes; only ${TARGET_PAGE_BYTES} can be migrated`,
        );
      }
    }
    this.#options = options;
    this.#parameters = options.parameters;
    this.#pages = new DirtyPages(
      options.memory,
      options.dirtyTracker,
      options.dirtyBitmaps,
      options.availablePages,
    );
    if (options.availablePages !== undefined) this.#awaited = new AwaitedPages(options.availablePages);
    this.#ram = new RamWriter(
      options.memory,
      this.#pages,
      this.#statistics,
      options.trace,
      options.ramSectionId ?? RAM_SECTION_ID,
      options.capabilities['x-checksum'],
    );
    this.#pushOrder = new PushOrder(options.pushFirst ?? [], this.#pages);
    this.#quietBeforePushMs = options.quietBeforePushMs ?? 0;
    this.#totalBytes = blocks.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
    this.#ranges = new RangeAllowance(this.#totalBytes / TARGET_PAGE_BYTES);
    if (options.capabilities['postcopy-ram'] && !options.hasReturnPath) {
      throw new MigrationError(
        'Postcopy needs a return path: use tcp:, unix: or a socket as fd:, or switch postcopy-ram off',
      );
    }
    if (options.capabilities['x-checksum'] && !options.hasReturnPath) {
      throw new MigrationError(
        'Checksums need a return path: use tcp:, unix: or a socket as fd:, or switch x-checksum off',
      );
    }
  }

  get status(): MigrationStatus {
    return this.#status;
  }

  get error(): Error | undefined {
    return this.#error;
  }

  /** Nothing more will come of this migration, and the guest has been let go. */
  get isOver(): boolean {
    return this.#phase === 'over';
  }

  /** The destination has the guest and has run it: what is here is out of date. */
  get isGuestElsewhere(): boolean {
    return this.#handover.isGuestGone || (this.#status === 'completed' && this.#isPostcopyWanted);
  }

  /** The guest is on its way as a postcopy. */
  get hasPostcopyBegun(): boolean {
    return this.#isPostcopyWanted && (this.#phase === 'handover' || this.#isInPostcopy);
  }

  /** The connection is lost, or was broken off: only `recover` goes on. What is still to be written is void. */
  get isPaused(): boolean {
    return this.#phase === 'paused';
  }

  /** Everything is sent; a channel without a return path may be closed now, and `peerFinished` called. */
  get isFlushed(): boolean {
    return (
      this.#phase === 'ending' && this.#control.pendingBytes === 0 && this.#sentBytes === this.#producedBytes
    );
  }

  // ---- inputs ----------------------------------------------------------------------------------------------

  start(nowMs: number): void {
    const { capabilities, hasReturnPath, machineType, uuid } = this.#options;
    this.#statistics.startedAtMs = nowMs;
    this.#peer.begin(nowMs);
    this.#move('setup');
    this.#pages.start(this.#options.isPulled);
    this.#limiter.setLimit(this.#parameters['max-bandwidth'], nowMs);

    this.#queue(fileHeaderBytes(machineType, [], uuid), (writer) =>
      writeFileHeader(writer, machineType, [], uuid),
    );
    if (hasReturnPath) {
      this.#queueCommand('OPEN_RETURN_PATH', encodeCommand(MigrationCommand.OPEN_RETURN_PATH));
      this.#queuePing(PingValue.RETURN_PATH_OPENED, nowMs);
    }
    this.#heardAtMs = nowMs;
    if (capabilities['x-checksum']) this.#phase = 'greeting';
    else this.#announceRam(nowMs);
  }

  /** The destination has answered the first PING, in front of which it says what it can. */
  #greeted(nowMs: number): void {
    if ((this.#handover.peerFeatures & PeerFeature.CHECKSUMS) === 0) {
      const why = 'The destination cannot check checksums: it is a QEMU, or an older version of this program';
      this.#fail(new MigrationError(`${why}. Switch the capability "x-checksum" off, or use TLS`), nowMs);
    } else this.#announceRam(nowMs);
  }

  #announceRam(nowMs: number): void {
    const { capabilities, memory } = this.#options;
    if (capabilities['postcopy-ram']) {
      const summary = memory.blocks.reduce((bits, { pageSizeBytes }) => bits | pageSizeBytes, 0);
      this.#queueCommand('POSTCOPY_ADVISE', encodeAdvise(summary, TARGET_PAGE_BYTES));
    }
    const startBytes = SECTION_START_MAX_BYTES + memSizeMaxBytes(memory.blocks) + RAM_SECTION_TAIL_BYTES;
    this.#queue(startBytes, (writer) => this.#ram.writeStart(writer, capabilities['postcopy-ram']));
    this.#phase = 'precopy';
    this.#passStartedAtMs = nowMs;
  }

  /**
   * In place of `start`: the thread that drove this postcopy has died, and its connection with it. What is needed for a
   * recovery is there: the memory, and a bitmap of what never left.
   *
   * @param isGuestGone whether it was known that the destination has come to RUN
   */
  adopt(why: Error, isGuestGone: boolean, nowMs: number): void {
    this.#statistics.startedAtMs = nowMs;
    this.#statistics.handedOverAtMs = nowMs;
    this.#isPostcopyWanted = true;
    this.#isGuestPaused = true;
    this.#pages.adopt();
    this.#handover.endsAt(0);
    if (isGuestGone) this.#handover.guestIsGone();
    this.#status = 'postcopy-active';
    this.channelLost(why, nowMs);
  }

  setParameters(parameters: Parameters, nowMs: number): void {
    this.#parameters = parameters;
    const limit = this.#isInPostcopy ? 'max-postcopy-bandwidth' : 'max-bandwidth';
    this.#limiter.setLimit(parameters[limit], nowMs);
  }

  /** `migrate_start_postcopy`. @throws {MigrationError} if this migration cannot or need not switch */
  startPostcopy(): void {
    if (!this.#options.capabilities['postcopy-ram']) {
      throw new MigrationError('Enable postcopy with migrate_set_capability before the start of migration');
    }
    if (this.#phase !== 'greeting' && this.#phase !== 'precopy' && this.#phase !== 'settling') {
      throw new MigrationError(`Postcopy cannot start in state "${this.#status}": only precopy can switch`);
    }
    this.#isPostcopyWanted = true;
    this.#statistics.postcopyCause = 'command';
  }

  /** @throws {MigrationError} once the destination may have the guest */
  cancel(nowMs: number): void {
    if (this.#phase === 'idle' || (this.#phase === 'over' && this.#status !== 'completed')) return;
    if (!this.#canTakeBack) {
      throw new MigrationError(
        this.#status === 'completed'
          ? 'The migration is complete, there is nothing to cancel'
          : this.#status === 'device'
            ? 'Everything has been sent and the destination may run the guest already: too late to cancel. If it never ' +
              'answers, "migrate_pause" ends the wait'
            : this.#phase === 'paused'
              ? `Postcopy migration in progress, cannot cancel. It is interrupted; recover it: ${HOW_TO_RECOVER}`
              : 'Postcopy migration in progress, cannot cancel.',
      );
    }
    this.#move('cancelling');
    this.#giveUp(nowMs);
    this.#move('cancelled');
  }

  /** @param wasRunning false if an operator had paused the guest before */
  guestPaused(wasRunning: boolean): void {
    this.#isGuestPaused = true;
    this.#wasGuestRunning = wasRunning;
    if (this.#phase === 'over') {
      if (wasRunning) this.#options.effects.resumeGuest();
      return;
    }
    assert(this.#phase === 'pausing');
    this.#pages.sync();
    this.#pages.stop();
    this.#options.effects.passBegins(++this.#statistics.syncCount);
    this.#move('device');
    if (this.#isPostcopyWanted) {
      this.#phase = 'saving';
      this.#options.effects.saveDevices();
    } else {
      this.#pages.moveTo();
      this.#phase = 'final';
    }
  }

  devicesSaved(bytes: Uint8Array, nowMs: number): void {
    if (this.#phase === 'over') return;
    assert(this.#phase === 'saving');
    const devices = this.#options.encodeDevices(bytes, this.#wasGuestRunning);
    if (this.#isPostcopyWanted) this.#queueHandover(devices.messages, nowMs);
    else {
      for (const message of devices.messages) this.#queueMessage(message);
      this.#control.push(new Uint8Array(EOF_BYTES));
      // The destination need not wait for the description to run the guest.
      this.#handover.endsAt(this.#queuedBytes);
      this.#control.push(devices.description);
      this.#phase = 'ending';
    }
  }

  /** The guest could not be paused or saved. */
  machineFailed(error: Error, nowMs: number): void {
    if (this.#phase !== 'over')
      this.#fail(
        new MigrationError(`The guest could not be stopped and saved: ${error.message}`, { cause: error }),
        nowMs,
      );
  }

  /** So many of the bytes that `fill` gave have left for good. */
  sent(bytes: number, nowMs: number): void {
    if (this.#phase === 'paused') return;
    this.#sentBytes += bytes;
    if (bytes > 0) this.#peer.took(nowMs);
    if (
      this.#phase === 'handover' &&
      this.#status === 'device' &&
      this.#handover.isPackageSent(this.#sentBytes)
    )
      this.#awaitLoading();
    if (!this.#handover.isOver(this.#sentBytes) || !Number.isNaN(this.#statistics.handedOverAtMs)) return;
    this.#statistics.handedOverAtMs = nowMs;
    if (this.#phase === 'handover') this.#beginPostcopy(nowMs);
  }

  #beginPostcopy(nowMs: number): void {
    this.#phase = 'postcopy';
    this.#limiter.setLimit(this.#parameters['max-postcopy-bandwidth'], nowMs);
    this.#window.open(this.#producedBytes);
    this.#requestedAtMs = nowMs;
    this.#pages.moveTo();
    this.#ram.forgetBlock();
    this.#move('postcopy-active');
  }

  /**
   * Bytes of the return path.
   *
   * A violation of the protocol is treated as a lost connection: no peer that commits one can be relied on.
   */
  receive(bytes: Uint8Array, nowMs: number): void {
    if (this.#phase === 'over' || this.#phase === 'paused') return;
    this.#heardAtMs = nowMs;
    this.#peer.heard(nowMs);
    this.#statistics.returnPathBytes += bytes.length;
    try {
      this.#returnPath.take(bytes, (message) => {
        if (this.isOver || this.isPaused) return;
        this.#returnPathBytes = this.#returnPath.messageAt;
        this.#handleMessage(message, nowMs);
      });
    } catch (error) {
      if (!(error instanceof StreamError)) throw error;
      this.channelLost(error, nowMs);
    }
  }

  /**
   * The connection broke, or the peer closed it.
   *
   * That proves nothing of the other side, not even when it closed in good order: a tunnel closes so whatever broke in it.
   *
   * @param cause undefined if the peer closed in good order
   */
  channelLost(cause: Error | undefined, nowMs: number): void {
    if (this.#phase === 'over' || this.#phase === 'paused') return;
    const why = cause === undefined ? 'the destination closed it' : cause.message;
    if (this.#canTakeBack) {
      this.#fail(
        new MigrationError(`Connection lost before the guest was handed over: ${why}`, { cause }),
        nowMs,
      );
    } else if (!this.#isInPostcopy) {
      const what = 'Connection lost after everything was sent, before the destination said how it went';
      this.#end('failed', nowMs, new MigrationError(`${what}: ${why}. ${LOOK_THERE}`, { cause }));
    } else {
      const error = new MigrationError(this.#whyInterrupted(why), { cause });
      if (this.#options.isRecoverable) this.#interrupt(error, nowMs);
      else this.#end('postcopy-paused', nowMs, error);
    }
  }

  /**
   * Breaks the connection off. Also where it is too late to cancel a precopy whose destination says nothing:
   * it has failed then, and the operator finds out who has the guest.
   *
   * @throws {MigrationError} in any other state
   */
  pause(nowMs: number, why = BROKEN_OFF): void {
    const canPause = ['postcopy-active', 'postcopy-recover'].includes(this.#status);
    const isAnswerAwaited = this.#status === 'device' && !this.#canTakeBack;
    if (!isAnswerAwaited && (!canPause || !this.#options.isRecoverable)) {
      throw new MigrationError(
        `migrate-pause is only supported in state "postcopy-active" or "postcopy-recover", not in "${this.#status}"`,
      );
    }
    this.channelLost(new Error(why), nowMs);
  }

  /**
   * There is a new connection: asks the destination what it has, to go on from there.
   *
   * Also where it is not known whether the destination runs the guest: only one that does can answer.
   *
   * @throws {MigrationError} if there is nothing to recover
   */
  recover(nowMs: number): void {
    if (this.#phase !== 'paused') throw new MigrationError('Cannot resume if there is no paused migration');
    const { blocks } = this.#options.memory;
    this.#heldPages = new HeldPages(blocks, this.#pages);
    this.#returnPath = new ReturnPathDecoder({ maxBitmapBytes: HeldPages.maxBytes(blocks) });
    this.#returnPathBytes = 0;
    this.#requestedAtMs = nowMs;
    this.#heardAtMs = nowMs;
    this.#peer.begin(nowMs);
    this.#isStarved = false;
    this.#ranges.renew();
    this.#pings.clear();
    this.#phase = 'recovering';
    this.#move('postcopy-recover-setup');
    this.#move('postcopy-recover');
    for (const { idstr } of blocks) this.#queueCommand('RECV_BITMAP', encodeRecvBitmapCommand(idstr));
  }

  /** More pages can be read: those that are asked for go out first. There is room for them in the queue. */
  pagesArrived(): void {
    this.#isStarved = false;
    this.#awaited?.takeArrived((block, page, askedAtMs) => {
      this.#requests.push(block, page, 1, askedAtMs, this.#returnPathBytes);
    });
  }

  /** The other end of a channel without a return path is done: the command behind it has ended. */
  peerFinished(error: Error | undefined, nowMs: number): void {
    if (this.#phase === 'over') return;
    assert(this.isFlushed && !this.#options.hasReturnPath);
    if (error === undefined) this.#end('completed', nowMs);
    else {
      const text = `${error.message}, after everything was sent. ${LOOK_THERE}`;
      this.#end('failed', nowMs, new MigrationError(text, { cause: error }));
    }
  }

  /** The file that the stream was written to is not safe: nobody runs the guest from it. */
  notSaved(error: Error, nowMs: number): void {
    if (this.#phase !== 'over')
      this.#fail(new MigrationError(`The stream was not saved: ${error.message}`, { cause: error }), nowMs);
  }

  /** Gives up what is held for the migration, whatever its state. May be called twice. */
  close(): void {
    this.#phase = 'over';
    this.#pages.stop();
  }

  // ---- output ----------------------------------------------------------------------------------------------

  /**
   * Writes what is to be sent next to the start of `target`, at least `MIN_FILL_BYTES` long.
   *
   * @returns bytes written; all of them must be sent, in this order, before those of the next call
   */
  fill(target: Uint8Array, nowMs: number): number {
    assert(target.length >= MIN_FILL_BYTES);
    this.checkTime(nowMs);
    if (this.isOver || this.isPaused) return 0;
    const writer = new ByteWriter(target);
    this.#control.writeTo(writer);
    if (this.#control.pendingBytes === 0) {
      if (this.#phase === 'precopy') this.#fillPrecopy(writer, nowMs);
      else if (this.#phase === 'settling') this.#endSettling(nowMs);
      else if (this.#phase === 'final') this.#fillFinal(writer);
      else if (this.#phase === 'loading') this.#fillLoading(writer, nowMs);
      else if (this.#phase === 'postcopy') this.#fillPostcopy(writer, nowMs);
      if (writer.position === 0 && this.#control.pendingBytes === 0 && nowMs >= this.#beatAtMs)
        this.#queuePing(this.#pings.next(), nowMs);
      // What that has queued: the ping of a pass, or the one that is waited for.
      this.#control.writeTo(writer);
    }
    this.#producedBytes += writer.position;
    if (!this.#hasLeft && this.#handover.isOver(this.#producedBytes)) {
      this.#hasLeft = true;
      this.#options.effects.guestLeaves?.();
    }
    // In postcopy only what is pushed counts: a page that is asked for must not wait, nor make others wait.
    if (!this.#isInPostcopy && this.#phase !== 'loading') this.#limiter.spend(writer.position);
    return writer.position;
  }

  /**
   * Gives up a destination that has said nothing for too long. `fill` looks at the time by itself; a driver whose channel
   * takes nothing more does not call that, and calls this at `givesUpAtMs`.
   */
  checkTime(nowMs: number): void {
    if (nowMs < this.givesUpAtMs) return;
    if (this.#phase === 'greeting') {
      const what = `The destination has not answered within ${this.#recoverySilenceMs / 1000} s`;
      this.#fail(new MigrationError(what), nowMs);
    } else if (this.#phase === 'recovering') {
      this.channelLost(new Error(`nothing was heard for ${this.#recoverySilenceMs / 1000} s`), nowMs);
    } else if (this.#isHandingOver) {
      const what = `The destination has not loaded the state of the devices within ${this.#parameters['x-switchover-timeout']} ms`;
      this.#fail(new MigrationError(`${what} (parameter x-switchover-timeout)`), nowMs);
    } else {
      const silenceSeconds = this.#parameters['x-peer-timeout'] / 1000;
      this.channelLost(
        new Error(`nothing was heard of the destination for ${silenceSeconds} s (parameter x-peer-timeout)`),
        nowMs,
      );
    }
  }

  /** When `checkTime` would give the destination up; Infinity if it would not. */
  get givesUpAtMs(): number {
    if (this.#phase === 'greeting' || this.#phase === 'recovering')
      return this.#heardAtMs + this.#recoverySilenceMs;
    if (this.#isHandingOver) return this.#handover.givesUpAtMs(this.#parameters['x-switchover-timeout']);
    if (!this.#isPeerWatched) return Number.POSITIVE_INFINITY;
    const isAwaited =
      this.#phase === 'settling' || this.#phase === 'ending' || this.#sentBytes < this.#producedBytes;
    return this.#peer.givesUpAtMs(this.#parameters['x-peer-timeout'], isAwaited);
  }

  get #isHandingOver(): boolean {
    return this.#phase === 'handover' || this.#phase === 'loading';
  }

  get #recoverySilenceMs(): number {
    return Math.min(RECOVERY_SILENCE_MS, this.#parameters['x-peer-timeout']);
  }

  /** The destination can be asked whether it is there, and may owe an answer. */
  get #isPeerWatched(): boolean {
    const { isPeerWatched = false, hasReturnPath } = this.#options;
    return isPeerWatched && hasReturnPath && !this.isOver && !this.isPaused && this.#phase !== 'idle';
  }

  /** When a PING is due for nothing but to hear whether the destination is there; between other things it may always stand. */
  get #beatAtMs(): number {
    const canBeat = this.#isPeerWatched && (this.#phase === 'precopy' || this.#phase === 'postcopy');
    return canBeat ? this.#peer.beatAtMs : Number.POSITIVE_INFINITY;
  }

  /** When `fill` may have something without any input before; Infinity if only an input can change that. */
  wakeAtMs(nowMs: number): number {
    return Math.min(this.#workAtMs(nowMs), this.#beatAtMs, this.givesUpAtMs);
  }

  #workAtMs(nowMs: number): number {
    if (this.isOver || this.isPaused) return Number.POSITIVE_INFINITY;
    if (this.#control.pendingBytes > 0) return nowMs;
    if (this.#phase === 'precopy') {
      return Math.min(this.#limiter.readyAtMs(nowMs, MIN_PRECOPY_CHUNK_BYTES), this.#switchAtMs);
    }
    if (this.#phase === 'settling') {
      const switchAtMs = this.#isPostcopyWanted ? nowMs : this.#switchAtMs;
      return Math.max(switchAtMs, this.#settlingSinceMs + SETTLE_MS);
    }
    if (this.#phase === 'postcopy' && this.#window.isOpen && !this.#isStarved && !this.#options.isPulled)
      return Math.max(this.#pushAtMs, this.#limiter.readyAtMs(nowMs, this.#window.pieceBytes));
    return Number.POSITIVE_INFINITY;
  }

  info(nowMs: number): MigrationInfo {
    const ram = { remainingBytes: this.#pages.remainingBytes, totalBytes: this.#totalBytes };
    return this.#statistics.info(this.#status, this.#error, ram, this.#parameters['downtime-limit'], nowMs);
  }

  // ---- precopy ---------------------------------------------------------------------------------------------

  #fillPrecopy(writer: ByteWriter, nowMs: number): void {
    if (this.#status === 'setup') {
      this.#statistics.activeAtMs = nowMs;
      this.#beginPass(this.#pages.count, nowMs);
      this.#move('active');
    }
    this.#statistics.measureBandwidth(this.#sentBytes, nowMs);
    if (this.#isSwitchDue(nowMs)) {
      this.#settle(nowMs);
      return;
    }
    const allowedBytes = this.#limiter.available(nowMs);
    if (allowedBytes < MIN_PRECOPY_CHUNK_BYTES) return;
    assert(this.#awaited === undefined, 'precopy needs all pages at once');
    const before = writer.position;
    const isPassDone = this.#pages.count === 0 || !this.#ram.writePart(writer, allowedBytes);
    this.#statistics.precopyBytes += writer.position - before;
    if (isPassDone) this.#endPass(nowMs);
  }

  /** The time at which precopy gives way by itself. */
  get #switchAtMs(): number {
    const afterMs = this.#parameters['x-postcopy-start-time'];
    const isOn = this.#options.capabilities['postcopy-ram'] && afterMs > 0 && this.#status === 'active';
    return isOn ? this.#statistics.activeAtMs + afterMs : Number.POSITIVE_INFINITY;
  }

  #isSwitchDue(nowMs: number): boolean {
    if (!this.#isPostcopyWanted && nowMs >= this.#switchAtMs) {
      this.#isPostcopyWanted = true;
      this.#statistics.postcopyCause = 'start-time';
    }
    return this.#isPostcopyWanted;
  }

  /**
   * Lets the guest run on until the destination has decoded what is under way; it would stand still for that otherwise.
   * Without a return path nobody can tell when that is.
   */
  #settle(nowMs: number): void {
    if (!this.#options.hasReturnPath) {
      this.#pauseGuest(nowMs);
      return;
    }
    this.#phase = 'settling';
    this.#settlingSinceMs = nowMs;
    this.#settlingPing = this.#pings.next();
    this.#queuePing(this.#settlingPing, nowMs);
  }

  /** A switch that is due does not wait for ever: the destination may be slow to answer. */
  #endSettling(nowMs: number): void {
    if (this.#isSwitchDue(nowMs) && nowMs >= this.#settlingSinceMs + SETTLE_MS) this.#pauseGuest(nowMs);
  }

  /** A pass is complete: is what the guest has written meanwhile little enough to send while it stands still? */
  #endPass(nowMs: number, isSettled = false): void {
    const freshPages = this.#pages.sync();
    this.#statistics.dirtyPagesPerSecond = (freshPages / Math.max(1, nowMs - this.#passStartedAtMs)) * 1000;
    this.#statistics.measureBandwidth(this.#sentBytes, nowMs, true);
    const bandwidth = this.#statistics.bandwidth;
    const thresholdBytes = (bandwidth / 1000) * this.#parameters['downtime-limit'];
    const remainingBytes = this.#pages.remainingBytes;
    if (this.#options.trace.isEnabled('migrate_pending')) {
      this.#options.trace.emit('migrate_pending', {
        remainingBytes,
        thresholdBytes,
        bandwidthBytesPerSecond: bandwidth,
      });
    }
    if (remainingBytes > thresholdBytes) this.#beginPass(remainingBytes / TARGET_PAGE_BYTES, nowMs);
    else if (isSettled) this.#pauseGuest(nowMs);
    else this.#settle(nowMs);
  }

  #beginPass(dirtyPages: number, nowMs: number): void {
    this.#phase = 'precopy';
    this.#pages.moveTo();
    this.#passStartedAtMs = nowMs;
    const pass = ++this.#statistics.syncCount;
    if (this.#options.trace.isEnabled('migration_bitmap_sync_end')) {
      this.#options.trace.emit('migration_bitmap_sync_end', { pass, dirtyPages });
    }
    this.#options.effects.passBegins(pass);
    if (this.#options.hasReturnPath) this.#queuePing(this.#pings.next(), nowMs);
  }

  #pauseGuest(nowMs: number): void {
    this.#phase = 'pausing';
    this.#statistics.pausedAtMs = nowMs;
    if (this.#options.trace.isEnabled('postcopy_start') && this.#isPostcopyWanted) {
      const cause = this.#statistics.postcopyCause ?? '';
      this.#options.trace.emit('postcopy_start', { cause, remainingPages: this.#pages.count });
    }
    this.#options.effects.pauseGuest();
  }

  #fillFinal(writer: ByteWriter): void {
    const before = writer.position;
    const hasMore = this.#ram.writeFinal(writer);
    this.#statistics.downtimeBytes += writer.position - before;
    if (hasMore) return;
    assert(this.#pages.count === 0);
    this.#phase = 'saving';
    this.#options.effects.saveDevices();
  }

  // ---- the switch ------------------------------------------------------------------------------------------

  #queueHandover(devices: readonly StreamMessage[], nowMs: number): void {
    const { memory, trace } = this.#options;
    for (const command of encodeDirtyDiscards(memory.blocks, this.#pages, trace)) {
      this.#queueCommand('POSTCOPY_RAM_DISCARD', command);
    }
    this.#queuePing(PingValue.DISCARDS_SENT, nowMs);

    const holdsRun = !this.#handover.canHoldRunBack;
    const messages = encodePackage(devices, holdsRun);
    const lengthBytes = messages.reduce((sum, { bytes }) => sum + bytes.length, 0);
    this.#queueCommand('PACKAGED', encodePackagedHeader(lengthBytes));
    for (const value of [PingValue.IN_PACKAGE, PingValue.PACKAGE_LOADED])
      this.#pings.sent(value, nowMs, this.#producedBytes);
    for (const message of messages) this.#queueMessage(message);
    this.#handover.beginWithPackage(this.#queuedBytes, holdsRun, nowMs);
    if (holdsRun) this.#queuePing(PingValue.PACKAGE_SENT, nowMs);
    this.#phase = 'handover';
  }

  /** The destination has the package, and no leave to run the guest: it loads the devices. */
  #awaitLoading(): void {
    this.#phase = 'loading';
    this.#ram.forgetBlock();
    this.#move('postcopy-device');
  }

  /** Only what loading the devices touches: RUN must not wait behind anything else. */
  #fillLoading(writer: ByteWriter, nowMs: number): void {
    const before = writer.position;
    this.#ram.writeRequested(writer, this.#requests, nowMs);
    this.#statistics.postcopyBytes += writer.position - before;
  }

  /** The destination has loaded the package. */
  #queueRun(nowMs: number): void {
    this.#queueMessage(RUN_COMMAND);
    this.#handover.endsAt(this.#queuedBytes);
    this.#queuePing(PingValue.PACKAGE_SENT, nowMs);
    this.#phase = 'handover';
  }

  // ---- postcopy --------------------------------------------------------------------------------------------

  #fillPostcopy(writer: ByteWriter, nowMs: number): void {
    const before = writer.position;
    if (!this.#requests.isEmpty) this.#ram.writeRequested(writer, this.#requests, nowMs);
    // Pushed pages wait for the next call, so that what was asked for is on its way first.
    else if (this.#pages.count > 0 && !this.#options.isPulled) this.#pushPages(writer, nowMs);
    this.#statistics.postcopyBytes += writer.position - before;
    if (this.#pages.count === 0 && this.#requests.isEmpty) this.#writePostcopyEnd(writer);
  }

  /** What is asked for tells what the guest touches, as long as nothing is pushed; so pushing may have to wait. */
  get #pushAtMs(): number {
    return this.#requestedAtMs + this.#quietBeforePushMs;
  }

  #pushPages(writer: ByteWriter, nowMs: number): void {
    const allowedBytes = Math.min(this.#window.pieceBytes, this.#limiter.available(nowMs));
    if (!this.#window.isOpen || allowedBytes < PAGE_RECORD_CONTINUE_BYTES || nowMs < this.#pushAtMs) return;
    // All bitmaps would be looked through again for every message that comes.
    if (this.#isStarved) return;
    const pagesBefore = this.#pages.count;
    if (!this.#seekPushed()) return;
    if (this.#pushOrder.seek()) {
      this.#ram.writeOrdered(writer, this.#pushOrder, allowedBytes, PING_BYTES);
      this.#statistics.orderedPages += pagesBefore - this.#pages.count;
    } else this.#ram.writePart(writer, allowedBytes, PING_BYTES);
    this.#statistics.pushedPages += pagesBefore - this.#pages.count;
    this.#limiter.spend(writer.position);
    const value = this.#pings.next();
    writer.bytes(encodePing(value));
    this.#statistics.commandBytes += PING_BYTES;
    const position = this.#producedBytes + writer.position;
    this.#tracePing(value);
    this.#pings.sent(value, nowMs, position);
    this.#window.sent(position);
  }

  /** Moves the order, or the scan on its round, to a page that can be sent. @returns false if there is none */
  #seekPushed(): boolean {
    if (this.#pushOrder.seek() || this.#pages.seek()) return true;
    this.#pages.moveTo();
    this.#isStarved = !this.#pages.seek();
    return !this.#isStarved;
  }

  #writePostcopyEnd(writer: ByteWriter): void {
    if (writer.remaining < EMPTY_RAM_END_BYTES + EOF_BYTES) return;
    this.#ram.writeEmptyEnd(writer);
    writeEof(writer);
    this.#phase = 'ending';
  }

  // ---- return path -----------------------------------------------------------------------------------------

  #handleMessage(message: ReturnPathMessage, nowMs: number): void {
    const { trace } = this.#options;
    if (trace.isEnabled('source_return_path_thread_entry')) {
      trace.emit('source_return_path_thread_entry', { message: message.type, bytes: this.#returnPathBytes });
    }
    switch (message.type) {
      case 'pong': {
        const pong = this.#pings.answered(message.value, nowMs);
        if (pong === undefined) {
          this.#handover.peerAnnounces(decodePeerFeatures(message.value) ?? 0);
          return;
        }
        this.#statistics.pingRoundTrip.record(pong.roundTripMs * 1000);
        if (this.#phase === 'settling' && message.value === this.#settlingPing) {
          if (this.#isSwitchDue(nowMs)) this.#pauseGuest(nowMs);
          else this.#endPass(nowMs, true);
        }
        if (this.#phase === 'greeting' && message.value === PingValue.RETURN_PATH_OPENED)
          this.#greeted(nowMs);
        this.#heedAnswer(message.value, pong.position, nowMs);
        if (this.#phase === 'postcopy') this.#window.decoded(pong.position, pong.roundTripMs, nowMs);
        if (trace.isEnabled('source_return_path_thread_pong')) {
          trace.emit('source_return_path_thread_pong', {
            value: message.value,
            roundTripUs: pong.roundTripMs * 1000,
          });
        }
        return;
      }
      case 'req-pages':
        this.#queueRequest(message.idstr, message.start, message.lengthBytes, nowMs);
        return;
      case 'shut':
        this.#handleShut(message.status, nowMs);
        return;
      case 'recv-bitmap':
        if (this.#heldPages === undefined) throw this.#misplaced(message);
        this.#takeBitmap(message.idstr, message.bitmap, this.#heldPages);
        return;
      case 'resume-ack':
        if (this.#heldPages?.bitmaps === undefined) throw this.#misplaced(message);
        this.#goOn(nowMs);
        return;
      default:
        throw this.#misplaced(message);
    }
  }

  #heedAnswer(value: number, position: number, nowMs: number): void {
    const wasLoaded = this.#handover.isLoaded;
    const canTakeBack = this.#canTakeBack;
    this.#handover.answered(value, position);
    if (canTakeBack && this.#handover.isGuestGone) {
      // Who has come to RUN is believed only where it can have got it: until then the guest may be taken back.
      this.#handover.guestIsHere();
      const what = 'The destination says that it has come to RUN, before that was sent';
      throw new StreamError('BAD_MESSAGE', what, this.#returnPathBytes, 'return path');
    }
    if (wasLoaded || !this.#handover.isLoaded) return;
    if (this.#phase === 'loading') this.#queueRun(nowMs);
    else {
      const what = 'The destination says that it has loaded a package of which it has not got everything';
      throw new StreamError('BAD_MESSAGE', what, this.#returnPathBytes, 'return path');
    }
  }

  #misplaced(message: ReturnPathMessage): StreamError {
    const what = `Message "${message.type}" has no place in state "${this.#status}"`;
    return new StreamError('BAD_MESSAGE', what, this.#returnPathBytes, 'return path');
  }

  #queueRequest(idstr: string, start: number, lengthBytes: number, nowMs: number): void {
    const at = this.#returnPathBytes;
    const { memory, trace } = this.#options;
    const place = locateRequest(memory.blocks, { idstr, start, lengthBytes }, at);
    if (!['handover', 'loading', 'postcopy', 'ending', 'recovering'].includes(this.#phase)) {
      const what = `Cannot serve a request for pages of "${idstr}" in state "${this.#status}", not in postcopy`;
      throw new StreamError('BAD_MESSAGE', what, at, 'return path');
    }
    if (place.pageCount > 1) this.#ranges.spend(place.pageCount, at);
    if (trace.isEnabled('ram_save_queue_pages')) {
      trace.emit('ram_save_queue_pages', { idstr, start, lengthBytes });
    }
    this.#statistics.pageRequests++;
    this.#requestedAtMs = nowMs;
    this.#window.requested(nowMs);
    this.#options.effects.pagesRequested?.(place);
    // Once all is sent, whatever is asked for is in the stream already.
    if (this.#phase === 'ending') return;
    const { block, firstPage, pageCount } = place;
    if (this.#awaited === undefined) this.#requests.push(block, firstPage, pageCount, nowMs, at);
    else this.#queueAvailable(place, this.#awaited, nowMs);
  }

  #queueAvailable({ block, firstPage, pageCount }: PageRun, awaited: AwaitedPages, nowMs: number): void {
    const at = this.#returnPathBytes;
    for (let page = firstPage; page < firstPage + pageCount; page++) {
      if (awaited.add(block, page, nowMs, this.#requests.length, at))
        this.#options.effects.pageAwaited?.(block, page);
      else {
        checkWaitingRequests(this.#requests.length + awaited.count, at);
        this.#requests.push(block, page, 1, nowMs, at);
      }
    }
  }

  #handleShut(status: number, nowMs: number): void {
    if (status === 0) {
      if (this.#isEverythingSent || (this.#options.isPulled && this.#status === 'postcopy-active')) {
        this.#end('completed', nowMs);
        return;
      }
      const what = `The destination says that it is done in state "${this.#status}", before it can be`;
      throw new StreamError('BAD_MESSAGE', what, this.#returnPathBytes, 'return path');
    }
    if (this.#handover.isGuestGone || this.#phase === 'recovering') {
      this.channelLost(new MigrationError(`the destination reports failure (status ${status})`), nowMs);
    } else {
      // What shows that it has come to RUN would have come first: it never ran the guest.
      const why = `The destination refused the migration (status ${status}); its own message says why`;
      this.#fail(new MigrationError(why), nowMs);
    }
  }

  // ---- recovery --------------------------------------------------------------------------------------------

  #takeBitmap(idstr: string, bytes: Uint8Array, heldPages: HeldPages): void {
    heldPages.take(idstr, bytes, this.#returnPathBytes);
    const held = heldPages.bitmaps;
    if (held === undefined) return;
    // It answers only because it has run the guest, also if what showed that before was lost.
    this.#handover.guestIsGone();
    this.#pages.becomeAllBut(held);
    this.#traceBitmaps();
    this.#queueCommand('POSTCOPY_RESUME', encodeCommand(MigrationCommand.POSTCOPY_RESUME));
  }

  /** The destination is ready, and asks again for the pages that its guest waits for. */
  #goOn(nowMs: number): void {
    this.#heldPages = undefined;
    this.#error = undefined;
    this.#window.open(this.#producedBytes);
    this.#ram.forgetBlock();
    this.#phase = 'postcopy';
    const pausedMs = this.#statistics.interruptions.ended(nowMs);
    this.#move('postcopy-active');
    if (this.#options.trace.isEnabled('postcopy_pause_continued')) {
      const { recoveries } = this.#statistics.interruptions;
      this.#options.trace.emit('postcopy_pause_continued', {
        dirtyPages: this.#pages.count,
        recoveries,
        pausedMs,
      });
    }
  }

  #traceBitmaps(): void {
    const { memory, dirtyBitmaps, trace } = this.#options;
    if (!trace.isEnabled('ram_dirty_bitmap_reload_complete')) return;
    memory.blocks.forEach(({ idstr }, block) => {
      const dirtyPages = dirtyBitmaps[block]?.count() ?? 0;
      trace.emit('ram_dirty_bitmap_reload_complete', { idstr, dirtyPages });
    });
  }

  #interrupt(error: Error, nowMs: number): void {
    this.#phase = 'paused';
    this.#error = error;
    this.#heldPages = undefined;
    this.#requests.clear();
    this.#control.clear();
    this.#sentBytes = this.#producedBytes;
    this.#statistics.interruptions.began(nowMs);
    this.#move('postcopy-paused');
    if (this.#options.trace.isEnabled('postcopy_pause'))
      this.#options.trace.emit('postcopy_pause', { dirtyPages: this.#pages.count });
  }

  #whyInterrupted(why: string): string {
    const { isPulled = false, isRecoverable = false } = this.#options;
    return describeLostConnection({
      why,
      isPulled,
      isRecoverable,
      isGuestGone: this.#handover.isGuestGone,
      wasRecovering: this.#phase === 'recovering',
      remainingPages: this.#pages.count,
    });
  }

  // ---- ends ------------------------------------------------------------------------------------------------

  /** The guest has been handed over. */
  get #isInPostcopy(): boolean {
    return this.#status.startsWith('postcopy-') && this.#status !== 'postcopy-device';
  }

  /** Where the stream will be when all that is queued has left. */
  get #queuedBytes(): number {
    return this.#producedBytes + this.#control.pendingBytes;
  }

  /** Whether the destination can have all it needs; the description behind EOF it does not. */
  get #isEverythingSent(): boolean {
    const isPrecopy = !this.#isInPostcopy;
    return this.#phase === 'ending' && (isPrecopy ? this.#handover.isOver(this.#sentBytes) : this.isFlushed);
  }

  get #canTakeBack(): boolean {
    return !this.#handover.isOver(this.#sentBytes) && this.#phase !== 'over' && !this.#isInPostcopy;
  }

  /** The migration is off and the guest stays here; only while it can be taken back, or the destination said so. */
  #fail(error: Error, nowMs: number): void {
    this.#error = error;
    this.#giveUp(nowMs);
    this.#move('failed');
  }

  #giveUp(nowMs: number): void {
    this.#phase = 'over';
    this.#pages.stop();
    this.#statistics.endedAtMs = nowMs;
    if (this.#isGuestPaused && this.#wasGuestRunning) this.#options.effects.resumeGuest();
  }

  #end(status: MigrationStatus, nowMs: number, error?: Error): void {
    this.#phase = 'over';
    this.#error = error;
    this.#pages.stop();
    this.#statistics.endedAtMs = nowMs;
    this.#move(status);
  }

  #move(to: MigrationStatus): void {
    const from = this.#status;
    assert(SOURCE_MOVES[from].includes(to), `no move from ${from} to ${to}`);
    this.#status = to;
    if (this.#options.trace.isEnabled('migrate_set_state')) {
      this.#options.trace.emit('migrate_set_state', { side: 'source', from, to });
    }
    this.#options.effects.statusChanged(to, this.#error);
  }

  // ---- control messages ------------------------------------------------------------------------------------

  #queue(maxBytes: number, write: (writer: ByteWriter) => void): void {
    const writer = new ByteWriter(new Uint8Array(maxBytes));
    write(writer);
    this.#control.push(writer.subarray());
  }

  #queueCommand(name: string, bytes: Uint8Array): void {
    this.#statistics.commandBytes += bytes.length;
    if (this.#options.trace.isEnabled('savevm_command_send')) {
      this.#options.trace.emit('savevm_command_send', { command: name, bytes: bytes.length });
    }
    this.#control.push(bytes);
  }

  #queuePing(value: number, nowMs: number): void {
    this.#peer.asked();
    this.#tracePing(value);
    this.#queueCommand('PING', encodePing(value));
    this.#pings.sent(value, nowMs, this.#queuedBytes);
  }

  #queueMessage(message: StreamMessage): void {
    const { trace } = this.#options;
    const { bytes } = message;
    if ('command' in message) {
      this.#queueCommand(message.command, bytes);
      return;
    }
    this.#statistics.deviceBytes += bytes.length;
    if (trace.isEnabled('savevm_section_start')) {
      trace.emit('savevm_section_start', { ...message.section, type: 'full' });
    }
    this.#control.push(bytes);
    if (trace.isEnabled('savevm_section_end')) {
      trace.emit('savevm_section_end', { ...message.section, bytes: bytes.length });
    }
  }

  #tracePing(value: number): void {
    if (this.#options.trace.isEnabled('savevm_send_ping'))
      this.#options.trace.emit('savevm_send_ping', { value });
  }
}
