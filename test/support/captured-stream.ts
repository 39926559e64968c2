/**
 * The stream of a real QEMU, decoded without knowing its machine: its RAM as a destination would have it, and its devices.
 */
import type { DecodedCommand } from '../../src/wire/commands.ts';
import { type DeviceTail, DeviceTailCollector } from '../../src/wire/device-tail.ts';
import {
  type AnnouncedRamBlock,
  OpenStreamDecoder,
  type OpenStreamHandler,
  type StreamConfiguration,
} from '../../src/wire/open-stream-decoder.ts';
import { TARGET_PAGE_BYTES } from '../../src/wire/ram-record.ts';
import { MIN_STREAM_BUFFER_BYTES } from '../../src/wire/stream-decoder.ts';
import { applyXbzrle } from '../../src/wire/xbzrle.ts';

export class CapturedStream implements OpenStreamHandler {
  configurationSeen: StreamConfiguration | undefined;
  blocks: readonly AnnouncedRamBlock[] = [];
  /** Content of each block. */
  ram: Buffer[] = [];
  tail: DeviceTail | null = null;
  readonly commands: DecodedCommand[] = [];
  readonly packageParts: Buffer[] = [];
  readonly counts = { page: 0, zero: 0, xbzrle: 0, section: 0 };
  readonly decoder: OpenStreamDecoder;
  readonly #buffer = Buffer.alloc(4 * MIN_STREAM_BUFFER_BYTES);
  #collector: DeviceTailCollector | undefined;

  constructor() {
    this.decoder = new OpenStreamDecoder({ buffer: this.#buffer, handler: this });
  }

  /** The next bytes of the stream, however many. */
  push(bytes: Uint8Array): void {
    for (let position = 0; position < bytes.length; ) {
      const free = this.decoder.free();
      const some = bytes.subarray(position, position + free.length);
      free.set(some);
      this.decoder.commit(some.length);
      this.decoder.run();
      position += some.length;
    }
  }

  /** The content of a block. */
  memory(idstr: string): Buffer {
    const index = this.blocks.findIndex((block) => block.idstr === idstr);
    const memory = this.ram[index];
    if (memory === undefined) throw new Error(`The stream has no block "${idstr}"`);
    return memory;
  }

  configuration(configuration: StreamConfiguration): void {
    this.configurationSeen = configuration;
  }
  recovery(): void {}
  sectionStart(): void {
    this.counts.section++;
  }
  sectionEnd(): void {}
  ramBlocks(blocks: readonly AnnouncedRamBlock[]): void {
    this.blocks = blocks;
    this.ram = blocks.map(({ lengthBytes }) => Buffer.alloc(lengthBytes));
  }
  page(blockIndex: number, offset: number, position: number): void {
    this.counts.page++;
    this.#buffer.copy(this.ram[blockIndex]!, offset, position, position + TARGET_PAGE_BYTES);
  }
  zeroPage(blockIndex: number, offset: number): void {
    this.counts.zero++;
    this.ram[blockIndex]!.fill(0, offset, offset + TARGET_PAGE_BYTES);
  }
  xbzrlePage(blockIndex: number, offset: number, position: number, lengthBytes: number, at: number): void {
    this.counts.xbzrle++;
    const delta = this.#buffer.subarray(position, position + lengthBytes);
    applyXbzrle(delta, this.ram[blockIndex]!.subarray(offset, offset + TARGET_PAGE_BYTES), at);
  }
  multifdFlush(): void {}
  ramSectionEnd(): void {}
  command(command: DecodedCommand): void {
    this.commands.push(command);
  }
  packageBytes(position: number, lengthBytes: number): void {
    this.packageParts.push(Buffer.from(this.#buffer.subarray(position, position + lengthBytes)));
  }
  packageEnd(): void {}
  tailBytes(position: number, lengthBytes: number, at: number): void {
    this.#collector ??= new DeviceTailCollector(at);
    const tail = this.#collector.push(this.#buffer.subarray(position, position + lengthBytes));
    if (this.tail !== null) throw new Error('Bytes follow the tail');
    this.tail = tail;
  }
  eof(): void {}
}
