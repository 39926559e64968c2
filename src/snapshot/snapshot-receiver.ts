/**
 * Makes a snapshot of a migration stream as it arrives: the destination of a precopy, without a machine.
 *
 *   bytes ─▶ decoder ─▶ pages      to their places in the file, straight from the receive buffer
 *                    ─▶ PING       answered
 *                    ─▶ devices    kept as they are, until their end is seen
 *
 * Driven like the decoder: read into `free()`, piece by piece, and say of each with `received()` how much came. It has no descriptor but the file's. The device
 * state, at most `MAX_TAIL_BYTES`, and two bits for each page are all it keeps in memory.
 */
import assert from 'node:assert/strict';
import { addressOf } from '../linux/memory.ts';
import type { DecodedCommand } from '../wire/commands.ts';
import { type DeviceTail, DeviceTailCollector } from '../wire/device-tail.ts';
import {
  type AnnouncedRamBlock,
  OpenStreamDecoder,
  type OpenStreamHandler,
  type StreamConfiguration,
} from '../wire/open-stream-decoder.ts';
import { TARGET_PAGE_BYTES } from '../wire/ram-record.ts';
import { encodePong } from '../wire/return-path.ts';
import { StreamError } from '../wire/stream-error.ts';
import { applyXbzrle } from '../wire/xbzrle.ts';
import { MAX_RAM_BYTES } from './file-scan.ts';
import { SnapshotWriter } from './snapshot-writer.ts';

export interface SnapshotReceiverOptions {
  readonly path: string;
  readonly overwrite: boolean;
  /** Off the JavaScript heap, `MIN_STREAM_BUFFER_BYTES` or more. Bigger is fewer writes. */
  readonly buffer: Uint8Array;
  /** Whether bytes can be sent back to the source. */
  readonly hasReturnPath: boolean;
  readonly sendReturnPath: (message: Uint8Array) => void;
  /** The file exists from now on, under a name that is not its own yet. */
  readonly onFile?: (partialPath: string, fd: number) => void;
}

/** What has come so far. A page counts as often as it came. */
export interface ReceivedCounts {
  readonly streamBytes: number;
  readonly normalPages: number;
  readonly zeroPages: number;
  /** Differences to what a page was before. */
  readonly xbzrlePages: number;
}

/** What a finished snapshot holds. */
export interface SnapshotContents {
  readonly machineType: string;
  /** All blocks together. */
  readonly ramBytes: number;
  /** Of pages that are not zero. */
  readonly contentBytes: number;
  readonly deviceBytes: number;
}

export class SnapshotReceiver implements OpenStreamHandler {
  readonly #options: SnapshotReceiverOptions;
  readonly #decoder: OpenStreamDecoder;
  readonly #bufferAddress: bigint;
  readonly #page = new Uint8Array(TARGET_PAGE_BYTES);
  #configuration: StreamConfiguration | undefined;
  #blocks: readonly AnnouncedRamBlock[] = [];
  #writer: SnapshotWriter | undefined;
  #collector: DeviceTailCollector | undefined;
  #tail: DeviceTail | undefined;
  #isReturnPathOpen = false;
  #normalPages = 0;
  #zeroPages = 0;
  #xbzrlePages = 0;

  constructor(options: SnapshotReceiverOptions) {
    this.#options = options;
    this.#bufferAddress = addressOf(options.buffer);
    this.#decoder = new OpenStreamDecoder({
      buffer: options.buffer,
      handler: this,
      accept: 'migration',
      limits: { ramBytes: MAX_RAM_BYTES },
    });
  }

  /** Whether all of the stream is there. */
  get isComplete(): boolean {
    return this.#tail !== undefined;
  }

  /** Whether the source has opened the return path: then it waits for SHUT. */
  get isReturnPathOpen(): boolean {
    return this.#isReturnPathOpen;
  }

  /** Whether all of RAM has come, and device state is coming. */
  get isInDevices(): boolean {
    return this.#decoder.inTail;
  }

  /** What is being read, in words. */
  get reading(): string {
    return this.#decoder.reading;
  }

  get counts(): ReceivedCounts {
    return {
      streamBytes: this.#decoder.bytesDecoded,
      normalPages: this.#normalPages,
      zeroPages: this.#zeroPages,
      xbzrlePages: this.#xbzrlePages,
    };
  }

  /**
   * The memory to read into next; never empty. What was read there before is written first.
   *
   * @throws {SnapshotError} `SYSTEM`: the file cannot be written
   */
  free(): Uint8Array {
    this.flush();
    return this.#decoder.free();
  }

  /**
   * The next `countBytes` of what `free()` returned last were read: takes from them what is whole. Pages may wait there to be
   * written with those that follow.
   *
   * @throws {StreamError} the source sent what cannot be saved
   * @throws {SnapshotError} `EXISTS`, `SYSTEM`: the file cannot be written
   */
  received(countBytes: number): void {
    this.#decoder.commit(countBytes);
    this.#decoder.run();
  }

  /** Writes pages that wait. @throws {SnapshotError} `SYSTEM` */
  flush(): void {
    this.#writer?.flush();
  }

  /**
   * The source closed its end, after all that it had to say.
   *
   * @throws {StreamError} `TRUNCATED` if that is not all of a stream
   */
  ended(): void {
    this.#decoder.end();
    if (this.#collector === undefined) throw this.#error('TRUNCATED', 'The stream ended before device state');
    this.#tail ??= this.#collector.settle();
  }

  /**
   * Makes the file whole, waits until it is on the disk and gives it its name. For a complete stream.
   *
   * @throws {SnapshotError} `EXISTS`, `SYSTEM`; then it still has to be abandoned
   */
  finish(): SnapshotContents {
    assert(this.#tail !== undefined && this.#writer !== undefined && this.#configuration !== undefined);
    const writer = this.#writer;
    const { deviceSections, vmDescription } = this.#tail;
    writer.finish(deviceSections, vmDescription);
    const contentPages = this.#blocks.reduce((sum, _, index) => sum + writer.hasContent(index).count(), 0);
    return {
      machineType: this.#configuration.machineType,
      ramBytes: this.#blocks.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0),
      contentBytes: contentPages * TARGET_PAGE_BYTES,
      deviceBytes: deviceSections.length,
    };
  }

  /** Removes the file unless it was finished. May be called twice. */
  abandon(): void {
    this.#writer?.abandon();
  }

  // ---- what the decoder tells --------------------------------------------------------------------------------

  configuration(configuration: StreamConfiguration): void {
    const [capability] = configuration.capabilities;
    if (capability !== undefined) throw this.#unsupported(capability, 'leaves memory out of the stream');
    this.#configuration = configuration;
  }

  recovery(): void {
    assert.fail('the decoder accepts only a migration');
  }

  sectionStart(): void {}
  sectionEnd(): void {}
  ramSectionEnd(): void {}

  ramBlocks(blocks: readonly AnnouncedRamBlock[]): void {
    const { path, overwrite, onFile } = this.#options;
    assert(this.#configuration !== undefined && this.#decoder.ramSectionId !== null);
    const { machineType, uuid } = this.#configuration;
    const { ramSectionId } = this.#decoder;
    this.#blocks = blocks;
    try {
      this.#writer = new SnapshotWriter({ path, overwrite, machineType, uuid, ramSectionId, blocks });
    } catch (error) {
      if (!(error instanceof RangeError) || error instanceof StreamError) throw error;
      throw this.#error('LIMIT', 'There is no memory for the tables of so much RAM');
    }
    onFile?.(this.#writer.partialPath, this.#writer.fd);
  }

  page(blockIndex: number, offset: number, position: number): void {
    this.#normalPages++;
    this.#writer!.queuePage(blockIndex, offset / TARGET_PAGE_BYTES, this.#bufferAddress + BigInt(position));
  }

  zeroPage(blockIndex: number, offset: number): void {
    this.#zeroPages++;
    this.#writer!.zeroPage(blockIndex, offset / TARGET_PAGE_BYTES);
  }

  xbzrlePage(blockIndex: number, offset: number, position: number, lengthBytes: number, at: number): void {
    this.#xbzrlePages++;
    const writer = this.#writer!;
    const pageNumber = offset / TARGET_PAGE_BYTES;
    writer.readPage(blockIndex, pageNumber, this.#page);
    applyXbzrle(this.#options.buffer.subarray(position, position + lengthBytes), this.#page, at);
    writer.writePage(blockIndex, pageNumber, this.#page);
  }

  multifdFlush(): void {
    throw this.#unsupported('multifd', 'sends pages on connections of their own');
  }

  command(command: DecodedCommand): void {
    switch (command.type) {
      case 'open-return-path':
        this.#isReturnPathOpen = this.#options.hasReturnPath;
        return;
      case 'ping':
        if (!this.#isReturnPathOpen) {
          throw this.#error('BAD_COMMAND', 'The source wants a PING answered, and has no return path');
        }
        this.#options.sendReturnPath(encodePong(command.value));
        return;
      case 'postcopy-ram-discard':
      case 'packaged-header':
        throw this.#error(
          'UNSUPPORTED',
          'The source has switched to postcopy, which a file cannot be the end of',
        );
      case 'enable-colo':
        throw this.#unsupported('x-colo', 'never ends');
      default:
        return;
    }
  }

  packageBytes(): void {}
  packageEnd(): void {}
  eof(): void {}

  tailBytes(position: number, lengthBytes: number, at: number): void {
    if (this.#tail !== undefined) {
      throw new StreamError('BAD_LENGTH', 'Bytes follow the end of the stream', at);
    }
    this.#collector ??= new DeviceTailCollector(at);
    const bytes = this.#options.buffer.subarray(position, position + lengthBytes);
    this.#tail = this.#collector.push(bytes) ?? undefined;
  }

  #unsupported(capability: string, what: string): StreamError {
    return this.#error('UNSUPPORTED', `The source has the capability "${capability}" on, which ${what}`);
  }

  #error(code: StreamError['code'], what: string): StreamError {
    return new StreamError(code, what, this.#decoder.bytesDecoded);
  }
}
