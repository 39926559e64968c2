/**
 * Understands a migration from what passes in both directions, over one connection or several.
 *
 * Allocates nothing for a page. What it keeps is bounded: two bits for each page of RAM, and so many requests under way as
 * `MAX_OPEN_REQUESTS`.
 */
import { MAX_RAM_BYTES, noPages, PageCensus } from '../inspect/page-census.ts';
import { PageBitmap } from '../memory/page-bitmap.ts';
import { LatencyRecorder } from '../migration/latency-recorder.ts';
import { type DecodedCommand, PingValue } from '../wire/commands.ts';
import type {
  AnnouncedRamBlock,
  OpenStreamDecoder,
  OpenStreamHandler,
  StreamConfiguration,
} from '../wire/open-stream-decoder.ts';
import { TARGET_PAGE_BYTES } from '../wire/ram-record.ts';
import type { ReturnPathMessage } from '../wire/return-path.ts';
import { StreamError } from '../wire/stream-error.ts';
import type { RelayReport, RelayState } from './relay-report.ts';

/** More faults than this do not wait at once: each is a thread of the guest, or of a device. */
export const MAX_OPEN_REQUESTS = 65_536;
/** Keys of requests: the block above, the page below. */
const PAGES_PER_BLOCK = 2 ** 36;

type ObserverReport = Omit<RelayReport, 'streamBytes' | 'returnPathBytes' | 'recording' | 'error'>;

export interface RelayObserverOptions {
  /** Milliseconds, any origin. */
  readonly clock: () => number;
  readonly onState: (state: RelayState) => void;
}

export class RelayObserver implements OpenStreamHandler {
  readonly #clock: () => number;
  readonly #onState: (state: RelayState) => void;
  readonly #census = new PageCensus();
  readonly #precopyPages = this.#census.part;
  readonly #postcopyPages = noPages();
  readonly #latencies = new LatencyRecorder();
  readonly #states: { state: RelayState; atMs: number }[] = [];
  readonly #commands: Record<string, number> = {};
  readonly #discards = { commands: 0, ranges: 0, pages: 0 };
  /** When the last page of each request that is under way was asked for. */
  readonly #requestedAtMs = new Map<number, number>();
  /** Pages that came down in postcopy: a request for one of them is not answered again. */
  #arrived: PageBitmap[] = [];
  #decoder: OpenStreamDecoder | undefined;
  #onPackage = () => {};
  #machineType: string | null = null;
  #blocks: readonly AnnouncedRamBlock[] = [];
  #state: RelayState = 'none';
  #isPostcopy = false;
  /** The package has passed: pages are placed, and asked for. */
  #isListening = false;
  #isReturnPathOpen = false;
  #shutStatus: number | undefined;
  #connections = 0;
  #startedAtMs = 0;
  #deviceStateBytes = 0;
  #requests = 0;
  #lateRequests = 0;

  constructor({ clock, onState }: RelayObserverOptions) {
    this.#clock = clock;
    this.#onState = onState;
  }

  get state(): RelayState {
    return this.#state;
  }

  /** Whether the guest may run at the destination: RUN has passed, in the package or behind it. */
  get isPostcopy(): boolean {
    return this.#isPostcopy;
  }

  /** Whether the source may go on to postcopy. */
  get isPostcopyAdvised(): boolean {
    return this.#commands['POSTCOPY_ADVISE'] !== undefined;
  }

  /** Whether the destination was told that it may answer. */
  get isReturnPathOpen(): boolean {
    return this.#isReturnPathOpen;
  }

  /** The destination's last word: 0 if it has the guest; undefined before it. */
  get shutStatus(): number | undefined {
    return this.#shutStatus;
  }

  /** What a recovery goes on with, once there is something. */
  get continued(): { blocks: readonly AnnouncedRamBlock[]; ramSectionId: number } | undefined {
    const ramSectionId = this.#decoder?.ramSectionId ?? null;
    return ramSectionId === null ? undefined : { blocks: this.#blocks, ramSectionId };
  }

  /**
   * A source has connected; the decoder tells this what it sends.
   *
   * @param onPackage told in front of a package, with which the guest leaves
   */
  connected(decoder: OpenStreamDecoder, onPackage: () => void): void {
    this.#onPackage = onPackage;
    if (this.#connections === 0) this.#startedAtMs = this.#clock();
    this.#connections++;
    this.#decoder = decoder;
    this.#shutStatus = undefined;
    this.#move(this.#isPostcopy ? 'postcopy-recover' : 'setup');
  }

  /** The connections are closed. Requests that wait are made again by a recovery. */
  disconnected(state: 'completed' | 'failed' | 'postcopy-paused'): void {
    this.#requestedAtMs.clear();
    this.#arrived = []; // What was under way comes again.
    this.#move(state);
  }

  /**
   * The destination has said something.
   *
   * @param at byte of the return path where it ends, for the error
   * @throws {StreamError} if it asks for what there is not
   */
  message(message: ReturnPathMessage, at: number): void {
    switch (message.type) {
      case 'req-pages':
        this.#request(message.idstr, message.start, message.lengthBytes, at);
        return;
      case 'resume-ack':
        this.#move('postcopy-active');
        return;
      case 'shut':
        this.#shutStatus = message.status;
        return;
      default:
        return;
    }
  }

  report(): ObserverReport {
    return {
      state: this.#state,
      isConfirmed: this.#shutStatus === 0,
      states: this.#states.map(({ state, atMs }) => ({ state, atMs: roundMs(atMs) })),
      elapsedMs: this.#connections === 0 ? 0 : roundMs(this.#clock() - this.#startedAtMs),
      machineType: this.#machineType,
      ramBytes: this.#blocks.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0),
      blocks: this.#blocks.length,
      connections: this.#connections,
      passes: this.#census.passes,
      precopyPages: { ...this.#precopyPages },
      postcopyPages: { ...this.#postcopyPages },
      deviceStateBytes: this.#deviceStateBytes,
      commands: { ...this.#commands },
      discards: { ...this.#discards },
      requests: {
        count: this.#requests,
        late: this.#lateRequests,
        latencyUs: this.#latencies.summary() ?? null,
      },
    };
  }

  // ---- what the stream tells -------------------------------------------------------------------------------

  configuration({ machineType }: StreamConfiguration): void {
    this.#machineType = machineType;
  }

  recovery(): void {
    this.#isReturnPathOpen = true;
    this.#isPostcopy = true;
    this.#listen();
    this.#move('postcopy-recover');
  }

  sectionStart(type: 'start' | 'part' | 'end'): void {
    if (type === 'end' && !this.#isListening) this.#move('device');
  }

  sectionEnd(type: 'start' | 'part' | 'end'): void {
    if (type === 'start') this.#move('active');
  }

  ramBlocks(blocks: readonly AnnouncedRamBlock[]): void {
    this.#blocks = blocks;
    this.#census.setBlocks(blocks);
  }

  page(blockIndex: number, offset: number): void {
    this.#census.add('normal', blockIndex, offset);
    if (this.#isListening) this.#arrive(blockIndex, offset);
  }

  zeroPage(blockIndex: number, offset: number): void {
    this.#census.add('zero', blockIndex, offset);
    if (this.#isListening) this.#arrive(blockIndex, offset);
  }

  xbzrlePage(blockIndex: number, offset: number): void {
    this.#census.add('xbzrle', blockIndex, offset);
  }

  multifdFlush(at: number): void {
    throw new StreamError(
      'UNSUPPORTED',
      'The source sends pages over other connections; switch the capability "multifd" off on both sides',
      at,
    );
  }

  ramSectionEnd(): void {}

  command(command: DecodedCommand, at: number): void {
    const name = nameOf(command);
    this.#commands[name] = (this.#commands[name] ?? 0) + 1;
    switch (command.type) {
      case 'open-return-path':
        this.#isReturnPathOpen = true;
        return;
      case 'enable-colo':
        throw new StreamError(
          'UNSUPPORTED',
          'The source goes on to COLO, which no relay can follow; switch the capability "x-colo" off',
          at,
        );
      case 'switchover-start':
        this.#move('device');
        return;
      case 'postcopy-ram-discard':
        this.#move('device');
        this.#discards.commands++;
        this.#discards.ranges += command.ranges.length;
        for (const { lengthBytes } of command.ranges) this.#discards.pages += lengthBytes / TARGET_PAGE_BYTES;
        return;
      case 'ping':
        if (command.value === PingValue.DISCARDS_SENT) this.#move('device');
        return;
      case 'packaged-header':
        this.#move('device');
        this.#deviceStateBytes += command.lengthBytes;
        this.#onPackage();
        return;
      case 'postcopy-run':
        this.#guestLeaves();
        return;
      default:
        return;
    }
  }

  packageBytes(): void {}

  packageEnd(_at: number, holdsRun: boolean): void {
    this.#listen();
    if (holdsRun) this.#guestLeaves();
    else this.#move('postcopy-device');
  }

  tailBytes(_position: number, lengthBytes: number): void {
    this.#deviceStateBytes += lengthBytes;
  }

  eof(): void {}

  #listen(): void {
    this.#isListening = true;
    this.#census.isPostcopy = true;
    this.#census.part = this.#postcopyPages;
  }

  #guestLeaves(): void {
    this.#isPostcopy = true;
    this.#move('postcopy-active');
  }

  // ---- inside ----------------------------------------------------------------------------------------------

  #move(state: RelayState): void {
    if (state === this.#state) return;
    this.#state = state;
    this.#states.push({ state, atMs: this.#clock() - this.#startedAtMs });
    this.#onState(state);
  }

  #request(idstr: string, start: number, lengthBytes: number, at: number): void {
    const blockIndex = this.#blocks.findIndex((block) => block.idstr === idstr);
    const block = this.#blocks[blockIndex];
    if (block === undefined) {
      if (this.#blocks.length === 0) return; // A recovery of what was not seen.
      throw new StreamError(
        'UNKNOWN_BLOCK',
        `Pages of "${idstr}" are asked for, which does not exist`,
        at,
        'return path',
      );
    }
    if (start + lengthBytes > block.lengthBytes) {
      const what = `Pages are asked for up to 0x${(start + lengthBytes).toString(16)} of "${idstr}", which ends at 0x${block.lengthBytes.toString(16)}`;
      throw new StreamError('OUT_OF_RANGE', what, at, 'return path');
    }
    this.#requests++;
    const lastPage = (start + lengthBytes) / TARGET_PAGE_BYTES - 1;
    if (this.#arrivedOf(blockIndex)?.isSet(lastPage) === true) {
      this.#lateRequests++;
      return;
    }
    const key = blockIndex * PAGES_PER_BLOCK + lastPage;
    if (this.#requestedAtMs.has(key) || this.#requestedAtMs.size === MAX_OPEN_REQUESTS) return;
    this.#requestedAtMs.set(key, this.#clock());
  }

  #arrive(blockIndex: number, offset: number): void {
    const page = offset / TARGET_PAGE_BYTES;
    this.#arrivedOf(blockIndex)?.set(page);
    if (this.#requestedAtMs.size === 0) return;
    const key = blockIndex * PAGES_PER_BLOCK + page;
    const requestedAtMs = this.#requestedAtMs.get(key);
    if (requestedAtMs === undefined) return;
    this.#requestedAtMs.delete(key);
    this.#latencies.record((this.#clock() - requestedAtMs) * 1000);
  }

  /** undefined for a block whose length is not known. */
  #arrivedOf(blockIndex: number): PageBitmap | undefined {
    const known = this.#arrived[blockIndex];
    if (known !== undefined) return known;
    const lengthBytes = this.#blocks[blockIndex]?.lengthBytes ?? Number.POSITIVE_INFINITY;
    if (lengthBytes > MAX_RAM_BYTES) return undefined;
    this.#arrived[blockIndex] = new PageBitmap(lengthBytes / TARGET_PAGE_BYTES);
    return this.#arrived[blockIndex];
  }
}

function nameOf(command: DecodedCommand): string {
  switch (command.type) {
    case 'packaged-header':
      return 'PACKAGED';
    case 'postcopy-advise-bitmaps':
      return 'POSTCOPY_ADVISE';
    default:
      return command.type.toUpperCase().replaceAll('-', '_');
  }
}

function roundMs(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}
