/**
 * A source engine with a small guest and a decoder at the other end, for the tests of this folder.
 *
 * The stream is told as words: `page pc.ram 3`, `zero pc.ram 4`, `part`, `end`, `ping 1`; a package's content in brackets.
 */
import { PageBitmap } from '../memory/page-bitmap.ts';
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import type { TraceName } from '../telemetry/trace-events.ts';
import type { Command } from '../wire/commands.ts';
import { encodePeerFeatures, PeerFeature } from '../wire/peer-features.ts';
import { encodePong, encodeReqPagesId } from '../wire/return-path.ts';
import { MIN_STREAM_BUFFER_BYTES, StreamDecoder } from '../wire/stream-decoder.ts';
import type { StreamHandler } from '../wire/stream-handler.ts';
import { DEFAULT_CAPABILITIES } from './capabilities.ts';
import { machineDevices, RAM_SECTION_ID } from './device-state.ts';
import { DEFAULT_PARAMETERS, type Parameters } from './parameters.ts';
import type { PageRun } from './push-order.ts';
import { SourceMigration } from './source.ts';
import type { DirtyTracker, SourceMemory } from './source-ports.ts';

export const RIG_MACHINE_TYPE = 'rig-1';
export const RIG_DEVICE = { idstr: 'rig', instanceId: 0, versionId: 1 };

export interface SourceRigOptions {
  readonly blocks?: Readonly<Record<string, number>>;
  readonly isPostcopyOn?: boolean;
  readonly hasReturnPath?: boolean;
  readonly parameters?: Partial<Parameters>;
  readonly pageSizeBytes?: number;
  readonly pushFirst?: readonly PageRun[];
  readonly quietBeforePushMs?: number;
  readonly availablePages?: readonly PageBitmap[];
  readonly isPulled?: boolean;
  readonly isRecoverable?: boolean;
  readonly hasChecksums?: boolean;
  readonly isPeerWatched?: boolean;
}

export class SourceRig {
  readonly engine: SourceMigration;
  /** What the engine asked of the machine, in order. */
  readonly effects: string[] = [];
  readonly statuses: string[] = [];
  readonly requested: PageRun[] = [];
  /** Requested pages that could not be read yet: block and page. */
  readonly awaited: string[] = [];
  /** Names of all that was traced. */
  readonly traces: TraceName[] = [];
  /** Everything the decoder understood. */
  readonly words: string[] = [];
  /** All bytes that `send` took. */
  readonly stream: Uint8Array[] = [];
  readonly parameters: Parameters;
  nowMs = 1000;
  /** Content per block and page; a page that is absent was never touched, and reading it throws. */
  readonly #contents: readonly Map<number, number>[];
  readonly #dirty: Set<number>[];
  readonly #names: readonly string[];
  readonly #pageCounts: readonly number[];
  readonly #blocks: SourceMemory['blocks'];
  #decoder: StreamDecoder;
  readonly #unansweredPings: number[] = [];
  readonly #target = new Uint8Array(256 * 1024);

  /** @param options.blocks page counts by name */
  constructor(options: SourceRigOptions = {}) {
    const { blocks: pageCounts = { 'pc.ram': 8 }, isPostcopyOn = true, hasReturnPath = true } = options;
    this.parameters = { ...DEFAULT_PARAMETERS, ...options.parameters };
    this.#names = Object.keys(pageCounts);
    this.#pageCounts = Object.values(pageCounts);
    const blocks = Object.entries(pageCounts).map(([idstr, pages]) => ({
      idstr,
      lengthBytes: pages * TARGET_PAGE_BYTES,
      pageSizeBytes: options.pageSizeBytes ?? TARGET_PAGE_BYTES,
    }));
    this.#blocks = blocks;
    this.#contents = blocks.map(() => new Map());
    this.#dirty = blocks.map(() => new Set());
    this.engine = new SourceMigration({
      memory: this.#memory(blocks),
      dirtyTracker: this.#tracker(),
      dirtyBitmaps: blocks.map(({ lengthBytes }) => new PageBitmap(lengthBytes / TARGET_PAGE_BYTES)),
      machineType: RIG_MACHINE_TYPE,
      encodeDevices: machineDevices(RIG_DEVICE),
      capabilities: {
        ...DEFAULT_CAPABILITIES,
        'postcopy-ram': isPostcopyOn,
        'x-checksum': options.hasChecksums ?? false,
      },
      parameters: this.parameters,
      hasReturnPath,
      pushFirst: options.pushFirst ?? [],
      quietBeforePushMs: options.quietBeforePushMs ?? 0,
      isPulled: options.isPulled ?? false,
      isRecoverable: options.isRecoverable ?? false,
      isPeerWatched: options.isPeerWatched ?? false,
      ...(options.availablePages !== undefined && { availablePages: options.availablePages }),
      effects: {
        pauseGuest: () => this.effects.push('pause'),
        saveDevices: () => this.effects.push('save'),
        resumeGuest: () => this.effects.push('resume'),
        statusChanged: (status) => this.statuses.push(status),
        passBegins: (pass) => this.effects.push(`pass ${pass}`),
        pagesRequested: (pages) => this.requested.push(pages),
        pageAwaited: (block, page) => this.awaited.push(`${block}:${page}`),
      },
      trace: { isEnabled: () => true, emit: (name) => this.traces.push(name) },
    });
    this.#decoder = new StreamDecoder({
      buffer: new Uint8Array(MIN_STREAM_BUFFER_BYTES),
      machineType: RIG_MACHINE_TYPE,
      blocks,
      devices: DEVICES,
      handler: this.#handler(''),
    });
  }

  /** Whether a page with a checksum has come to the decoder. */
  get hasSeenChecksums(): boolean {
    return this.#decoder.hasChecksums;
  }

  /** The guest writes a page; 0 makes it a page of zeros. */
  write(block: number, page: number, content: number): void {
    this.#contents[block]?.set(page, content);
    this.#dirty[block]?.add(page);
  }

  writeAll(content = 1): this {
    this.#pageCounts.forEach((pageCount, block) => {
      for (let page = 0; page < pageCount; page++) this.write(block, page, content);
    });
    return this;
  }

  /** There is a new connection, with a decoder at its end that knows nothing of the old one. */
  recover(): void {
    this.#unansweredPings.length = 0;
    this.#decoder = new StreamDecoder({
      buffer: new Uint8Array(MIN_STREAM_BUFFER_BYTES),
      machineType: RIG_MACHINE_TYPE,
      blocks: this.#blocks,
      devices: DEVICES,
      handler: this.#handler(''),
      resumed: { ramSectionId: RAM_SECTION_ID },
    });
    this.engine.recover(this.nowMs);
  }

  /** One `fill`, sent and decoded. @returns the new words */
  send(targetBytes = this.#target.length): string[] {
    const before = this.words.length;
    const count = this.engine.fill(this.#target.subarray(0, targetBytes), this.nowMs);
    this.#take(this.#target.slice(0, count));
    this.engine.sent(count, this.nowMs);
    return this.words.slice(before);
  }

  /**
   * Sends, and lets time pass, until only an input can change anything. In precopy the destination answers pings.
   *
   * @returns the new words
   */
  sendAll(): string[] {
    const before = this.words.length;
    do {
      while (this.send().length > 0) {}
      if (this.engine.status === 'active') this.answerPings();
      const wakeAtMs = this.engine.wakeAtMs(this.nowMs);
      if (wakeAtMs < Number.POSITIVE_INFINITY) this.nowMs = Math.max(this.nowMs, wakeAtMs) + 0.01;
    } while (this.engine.wakeAtMs(this.nowMs) < Number.POSITIVE_INFINITY);
    return this.words.slice(before);
  }

  /** The destination has decoded all that was sent. */
  answerPings(): void {
    for (const value of this.#unansweredPings.splice(0)) this.engine.receive(encodePong(value), this.nowMs);
  }

  /** Starts, and sends the first pass with what follows it, up to the pause. */
  startAndConverge(): void {
    this.engine.start(this.nowMs);
    this.sendAll();
  }

  /** A destination that waits for RUN gets the package. */
  sendPackage(): void {
    this.engine.start(this.nowMs);
    this.engine.receive(encodePong(encodePeerFeatures(PeerFeature.RUN_HANDSHAKE)), this.nowMs);
    this.engine.startPostcopy();
    this.sendAll();
    this.engine.guestPaused(true);
    this.engine.devicesSaved(Uint8Array.of(7), this.nowMs);
    while (this.engine.status !== 'postcopy-device') this.send();
  }

  /** Switches to postcopy and hands the guest over; whatever was dirty is still to be sent. */
  switchToPostcopy(): void {
    this.engine.start(this.nowMs);
    this.engine.startPostcopy();
    this.sendAll();
    this.engine.guestPaused(true);
    this.engine.devicesSaved(Uint8Array.of(7), this.nowMs);
    while (this.engine.status !== 'postcopy-active') this.send();
  }

  /** The destination asks for one page. */
  request(idstr: string, page: number): void {
    const bytes = encodeReqPagesId(page * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES, idstr);
    this.engine.receive(bytes, this.nowMs);
  }

  #take(bytes: Uint8Array): void {
    this.stream.push(bytes);
    for (let at = 0; at < bytes.length; ) {
      const free = this.#decoder.free();
      const some = bytes.subarray(at, at + free.length);
      free.set(some);
      this.#decoder.commit(some.length);
      this.#decoder.run();
      at += some.length;
    }
  }

  #memory(blocks: SourceMemory['blocks']): SourceMemory {
    const read = (block: number, offset: number) => {
      const content = this.#contents[block]?.get(offset / TARGET_PAGE_BYTES);
      if (content === undefined) throw new Error(`page at ${offset} was never touched, and is read`);
      return content;
    };
    return {
      blocks,
      copyPage: (block, offset, target, at) => target.fill(read(block, offset), at, at + TARGET_PAGE_BYTES),
      isZeroPage: (block, offset) => read(block, offset) === 0,
    };
  }

  #tracker(): DirtyTracker {
    return {
      start: (touched) => {
        this.effects.push('track');
        this.#contents.forEach((pages, block) => {
          for (const page of pages.keys()) touched[block]?.set(page);
          this.#dirty[block]?.clear();
        });
      },
      sync: (dirty) => {
        this.#dirty.forEach((pages, block) => {
          for (const page of pages) dirty[block]?.set(page);
          pages.clear();
        });
      },
      stop: () => this.effects.push('untrack'),
    };
  }

  #handler(indent: string): StreamHandler {
    const say = (word: string) => this.words.push(indent + word);
    const name = (block: number, offset: number) => `${this.#names[block]} ${offset / TARGET_PAGE_BYTES}`;
    return {
      configuration: (machineType) => say(`configuration ${machineType}`),
      sectionStart: (type, _, idstr) => say(type === 'full' ? `full ${idstr}` : type),
      sectionEnd: () => {},
      ramBlocks: (blocks) => say(`blocks ${blocks.map(({ idstr }) => idstr).join(' ')}`),
      page: (block, offset) => say(`page ${name(block, offset)}`),
      zeroPage: (block, offset) => say(`zero ${name(block, offset)}`),
      ramSectionEnd: () => {},
      device: () => {},
      command: (command) => this.#command(command, say),
      eof: () => say('eof'),
      vmDescription: () => say('vm description'),
    };
  }

  #command(command: Command, say: (word: string) => void): void {
    switch (command.type) {
      case 'ping':
        say(`ping ${command.value < 0x1000 ? command.value : 'n'}`);
        this.#unansweredPings.push(command.value);
        return;
      case 'postcopy-ram-discard':
        for (const { start, lengthBytes } of command.ranges)
          say(`discard ${command.idstr} ${start / TARGET_PAGE_BYTES}+${lengthBytes / TARGET_PAGE_BYTES}`);
        return;
      case 'packaged': {
        say('packaged [');
        const content = new StreamDecoder({
          buffer: command.bytes,
          machineType: RIG_MACHINE_TYPE,
          blocks: [],
          devices: DEVICES,
          handler: this.#handler('  '),
          embedded: true,
        });
        content.free();
        content.commit(command.bytes.length);
        content.run();
        content.end();
        say(']');
        return;
      }
      case 'recv-bitmap':
        say(`recv-bitmap ${command.idstr}`);
        return;
      default:
        say(command.type);
    }
  }
}

const DEVICES = [
  { idstr: 'globalstate', instanceId: 0, versionId: 1, body: 'global-state', maxBytes: 0 },
  { ...RIG_DEVICE, body: 'length-prefixed', maxBytes: 1024 * 1024 },
] as const;
