/**
 * A destination engine with a small memory and the pieces of streams for it, for the tests of this folder.
 */
import { PageBitmap } from '../memory/page-bitmap.ts';
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import type { TraceName } from '../telemetry/trace-events.ts';
import type { ByteWriter } from '../wire/byte-writer.ts';
import {
  encodeAdvise,
  encodeCommand,
  encodeDiscards,
  encodePackagedHeader,
  encodePing,
  encodeRecvBitmapCommand,
  MigrationCommand,
} from '../wire/commands.ts';
import { concatenate, written } from '../wire/example-stream.ts';
import { decodePeerFeatures } from '../wire/peer-features.ts';
import {
  RamSaveFlag,
  writeMemSize,
  writePageHeader,
  writeRamEos,
  writeZeroPage,
} from '../wire/ram-record.ts';
import type { ReturnPathMessage } from '../wire/return-path.ts';
import { ReturnPathDecoder } from '../wire/return-path-decoder.ts';
import {
  SectionType,
  writeEof,
  writeFileHeader,
  writeSectionContinuation,
  writeSectionFooter,
  writeSectionStart,
} from '../wire/sections.ts';
import { MIN_STREAM_BUFFER_BYTES } from '../wire/stream-decoder.ts';
import { DestinationMigration } from './destination.ts';
import type { DestinationMemory } from './destination-ports.ts';
import { machineDevices } from './device-state.ts';
import { RequestTimes } from './page-requests.ts';

export const RIG_MACHINE_TYPE = 'rig-1';
export const RIG_DEVICE = { idstr: 'rig', instanceId: 0, versionId: 1 };
const RAM_SECTION_ID = 2;
export const RIG_BLOCKS = [
  { idstr: 'pc.ram', lengthBytes: 4 * TARGET_PAGE_BYTES, pageSizeBytes: TARGET_PAGE_BYTES },
  { idstr: 'vga.vram', lengthBytes: 2 * TARGET_PAGE_BYTES, pageSizeBytes: TARGET_PAGE_BYTES },
] as const;

export interface DestinationRigOptions {
  readonly hasReturnPath?: boolean;
  readonly peerTimeoutMs?: number;
  /** What `checkPostcopy` throws. */
  readonly postcopyError?: Error;
  /** What placing a page answers. */
  readonly placement?: 'placed' | 'exists';
}

export class DestinationRig {
  readonly engine: DestinationMigration;
  /** What the engine asked of memory and machine, in order. */
  readonly effects: string[] = [];
  readonly statuses: string[] = [];
  /** Names of all that was traced. */
  readonly traces: TraceName[] = [];
  readonly messages: ReturnPathMessage[] = [];
  readonly received = RIG_BLOCKS.map(({ lengthBytes }) => new PageBitmap(lengthBytes / TARGET_PAGE_BYTES));
  readonly requestTimes = new RequestTimes(RIG_BLOCKS);
  nowMs = 1000;
  readonly #buffer = new Uint8Array(MIN_STREAM_BUFFER_BYTES);
  #returnPath = new ReturnPathDecoder();

  constructor(options: DestinationRigOptions = {}) {
    this.engine = new DestinationMigration({
      memory: this.#memory(options),
      buffer: this.#buffer,
      receivedBitmaps: this.received,
      requestTimes: this.requestTimes,
      machineType: RIG_MACHINE_TYPE,
      deviceSection: RIG_DEVICE,
      hasReturnPath: options.hasReturnPath ?? true,
      ...(options.peerTimeoutMs !== undefined && { peerTimeoutMs: options.peerTimeoutMs }),
      effects: {
        sendReturnPath: (message) => this.messages.push(...this.#returnPath.push(message)),
        loadDevices: (state) => this.effects.push(`load ${Buffer.from(state).toString('hex')}`),
        resumeGuest: (shouldRun) => this.effects.push(shouldRun ? 'resume' : 'stay paused'),
        requestPagesAgain: () => this.effects.push('request again'),
        statusChanged: (status) => this.statuses.push(status),
      },
      clock: () => this.nowMs,
      trace: { isEnabled: () => true, emit: (name) => this.traces.push(name) },
    });
    this.engine.start(this.nowMs);
  }

  /** The stream goes on with these pieces. */
  receive(...pieces: readonly Uint8Array[]): void {
    const bytes = concatenate(...pieces);
    for (let at = 0; at < bytes.length; ) {
      const free = this.engine.free();
      const some = bytes.subarray(at, at + free.length);
      if (some.length === 0) throw new Error('the engine reads nothing more');
      free.set(some);
      this.engine.received(some.length, this.nowMs);
      at += some.length;
    }
  }

  /** There is a new connection; its return path is decoded afresh. */
  recover(): void {
    this.#returnPath = new ReturnPathDecoder();
    this.engine.recover(this.nowMs);
  }

  /** The return path in words: `pong 3`, `shut 1`; without the announcement of features. */
  get answers(): string[] {
    const isAnswer = (message: ReturnPathMessage) =>
      message.type !== 'pong' || decodePeerFeatures(message.value) === undefined;
    return this.messages.filter(isAnswer).map((message) => {
      if (message.type === 'pong') return `pong ${message.value}`;
      if (message.type === 'recv-bitmap')
        return `recv-bitmap ${message.idstr} ${Buffer.from(message.bitmap).toString('hex')}`;
      return message.type === 'shut' ? `shut ${message.status}` : message.type;
    });
  }

  #memory({ postcopyError, placement = 'placed' }: DestinationRigOptions): DestinationMemory {
    const say = (verb: string, block: number, offset: number) =>
      this.effects.push(`${verb} ${RIG_BLOCKS[block]?.idstr} ${offset / TARGET_PAGE_BYTES}`);
    return {
      blocks: RIG_BLOCKS,
      checkPostcopy: () => {
        if (postcopyError !== undefined) throw postcopyError;
      },
      dropAll: () => this.effects.push('drop all'),
      writePage: (block, offset, position) => {
        say(`write ${this.#buffer[position]} to`, block, offset);
      },
      writeZeroPage: (block, offset) => say('zero', block, offset),
      prepareDiscards: () => this.effects.push('prepare discards'),
      discard: (block, offset, lengthBytes) =>
        say(`discard ${lengthBytes / TARGET_PAGE_BYTES} of`, block, offset),
      listen: () => this.effects.push('listen'),
      placePage: (block, offset, position) => {
        say(`place ${this.#buffer[position]} at`, block, offset);
        return placement;
      },
      placeZeroPage: (block, offset) => {
        say('place zero at', block, offset);
        return placement;
      },
      end: () => this.effects.push('end'),
    };
  }
}

// ---- pieces of a stream --------------------------------------------------------------------------------------

export const header = written((writer) => writeFileHeader(writer, RIG_MACHINE_TYPE));
export const openReturnPath = encodeCommand(MigrationCommand.OPEN_RETURN_PATH);
export const ping = encodePing;
export const advise = encodeAdvise(TARGET_PAGE_BYTES, TARGET_PAGE_BYTES);
export const ramStart = written((writer) => {
  writeSectionStart(writer, SectionType.START, RAM_SECTION_ID, 'ram', 0, 4);
  writeMemSize(writer, RIG_BLOCKS, { withHostPageSize: true });
  closeRam(writer);
});
export const ramEnd = written((writer) => {
  writeSectionContinuation(writer, SectionType.END, RAM_SECTION_ID);
  closeRam(writer);
});
export const eof = written(writeEof);
export const listen = encodeCommand(MigrationCommand.POSTCOPY_LISTEN);
export const run = encodeCommand(MigrationCommand.POSTCOPY_RUN);

/** A PART with pages of one block: 0 is a zero page, anything else its content. */
export function part(block: number, contents: Readonly<Record<number, number>>): Uint8Array {
  return written((writer) => {
    writeSectionContinuation(writer, SectionType.PART, RAM_SECTION_ID);
    for (const [page, content] of Object.entries(contents)) {
      const idstr = RIG_BLOCKS[block]?.idstr ?? '';
      const offset = Number(page) * TARGET_PAGE_BYTES;
      if (content === 0) writeZeroPage(writer, offset, idstr);
      else {
        writePageHeader(writer, offset, RamSaveFlag.PAGE, idstr);
        writer.bytes(new Uint8Array(TARGET_PAGE_BYTES).fill(content));
      }
    }
    closeRam(writer);
  });
}

export function discard(block: number, firstPage: number, pageCount: number): Uint8Array {
  return concatenate(
    ...encodeDiscards(RIG_BLOCKS[block]?.idstr ?? '', [
      { start: firstPage * TARGET_PAGE_BYTES, lengthBytes: pageCount * TARGET_PAGE_BYTES },
    ]),
  );
}

export function devices(isRunning = true): Uint8Array {
  const sections = machineDevices(RIG_DEVICE)(Uint8Array.of(0xab), isRunning).messages;
  return concatenate(...sections.map(({ bytes }) => bytes));
}

export function packaged(...pieces: readonly Uint8Array[]): Uint8Array {
  const content = concatenate(...pieces);
  return concatenate(encodePackagedHeader(content.length), content);
}

export const askBitmap = (block: number) => encodeRecvBitmapCommand(RIG_BLOCKS[block]?.idstr ?? '');
export const resume = encodeCommand(MigrationCommand.POSTCOPY_RESUME);

export const wholePackage = packaged(listen, devices(), ping(3), run);
/** All of precopy's beginning, and every page once. */
export const allPages = concatenate(part(0, { 0: 1, 1: 2, 2: 0, 3: 4 }), part(1, { 0: 0, 1: 6 }));
export const advised = concatenate(header, openReturnPath, ping(1), advise, ramStart);

function closeRam(writer: ByteWriter): void {
  writeRamEos(writer);
  writeSectionFooter(writer, RAM_SECTION_ID);
}
