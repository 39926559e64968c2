/**
 * Reads a stream and writes down what it holds.
 *
 * Bytes go in as with the decoder it is made of: `free()`, `received()`, at the end `end()`. Runs of the same are folded, so
 * that a report is short however long the stream; the device state is kept, to be told apart. What is wrong with the
 * stream does not throw: it is part of the report, and nothing more is taken then.
 */
import { CollectedBytes } from '../wire/collected-bytes.ts';
import type { DecodedCommand } from '../wire/commands.ts';
import { decodeGlobalState, GLOBAL_STATE_IDSTR } from '../wire/device-sections.ts';
import { type DeviceTail, DeviceTailCollector } from '../wire/device-tail.ts';
import { decodeVmDescription, walkDeviceSections } from '../wire/device-walk.ts';
import {
  type AnnouncedRamBlock,
  OpenStreamDecoder,
  type OpenStreamHandler,
  type StreamConfiguration,
} from '../wire/open-stream-decoder.ts';
import { openPackage } from '../wire/package.ts';
import { TARGET_PAGE_BYTES } from '../wire/ram-record.ts';
import { MAPPED_RAM_CAPABILITY } from '../wire/sections.ts';
import { StreamError } from '../wire/stream-error.ts';
import { findDeviceSections } from './find-device-sections.ts';
import { MAX_RAM_BYTES, noPages, PageCensus } from './page-census.ts';
import type { DeviceReport, StreamItem, StreamReport } from './stream-report.ts';

const MAX_PACKAGE_BYTES = 512 * 1024 * 1024;
const MAX_ITEMS = 10_000;

export interface StreamInspectorOptions {
  /** The memory to receive into: `MIN_STREAM_BUFFER_BYTES` or more. */
  readonly buffer: Uint8Array;
  /** What stream byte 0 is in its file. */
  readonly fileOffset?: number;
  /** Told of each item when it is complete. */
  readonly onItem?: (item: StreamItem) => void;
}

export class StreamInspector implements OpenStreamHandler {
  readonly decoder: OpenStreamDecoder;
  readonly census = new PageCensus();
  readonly #buffer: Uint8Array;
  readonly #onItem: (item: StreamItem) => void;
  readonly #items: StreamItem[] = [];
  #itemsLeftOut = 0;
  /** The item that may still grow. */
  #open: StreamItem | undefined;
  #configuration: StreamConfiguration | undefined;
  #isRecovery = false;
  #package: { readonly at: number; readonly bytes: CollectedBytes } | undefined;
  #tailAt = 0;
  #collector: DeviceTailCollector | undefined;
  #tail: DeviceTail | undefined;
  #devices: readonly DeviceReport[] = [];
  #devicesBy: 'description' | 'footers' | null = null;
  #runState: string | null = null;
  #error: StreamReport['error'] = null;
  #isEnded = false;
  /** What is being read, where the decoder does not know it. */
  #reading: string | undefined;

  constructor({ buffer, fileOffset = 0, onItem = () => {} }: StreamInspectorOptions) {
    this.#buffer = buffer;
    this.#onItem = onItem;
    this.decoder = new OpenStreamDecoder({
      buffer,
      handler: this,
      fileOffset,
      limits: { packageBytes: MAX_PACKAGE_BYTES, ramBytes: MAX_RAM_BYTES },
    });
  }

  /** Whether something is wrong with the stream; it is then in the report, and nothing more is taken. */
  get hasFailed(): boolean {
    return this.#error !== null;
  }

  /** Whether the whole stream has been seen. */
  get isDone(): boolean {
    return this.#error === null && (this.decoder.ended || this.#tail !== undefined);
  }

  /** The first `countBytes` of `decoder.free()` were read. */
  received(countBytes: number): void {
    if (this.#error !== null) return;
    this.decoder.commit(countBytes);
    this.#attempt(() => this.decoder.run());
  }

  /** The next bytes of a mapped-ram file, at most `decoder.skippableBytes`, were left out. */
  skipped(countBytes: number): void {
    this.decoder.skip(countBytes);
    this.#attempt(() => this.decoder.run());
  }

  /** Nothing more comes. */
  end(): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    if (this.#error === null) {
      this.#attempt(() => {
        this.decoder.end();
        if (this.decoder.inTail) this.#takeTail();
      });
    }
    this.#close();
  }

  /** Nothing more is read, though more may come: what was seen is no error. */
  leave(): void {
    this.#isEnded = true;
    this.#close();
  }

  report(): StreamReport {
    const { decoder, census } = this;
    const { machineType = null, uuid, capabilities = [] } = this.#configuration ?? {};
    return {
      kind: this.#kind(),
      bytes: decoder.bytesDecoded + decoder.undecoded.length,
      isComplete: this.isDone,
      machineType,
      uuid: uuid === undefined ? null : formatUuid(uuid),
      capabilities,
      runState: this.#runState,
      passes: census.passes,
      blocks: decoder.blocks.map((block, index) => ({
        idstr: block.idstr,
        lengthBytes: Number.isSafeInteger(block.lengthBytes + 1) ? block.lengthBytes : null,
        pageSizeBytes: block.pageSizeBytes,
        ...(block.gpa === undefined ? {} : { gpa: `0x${block.gpa.toString(16)}` }),
        ...(block.mapped === undefined ? {} : { mapped: block.mapped }),
        pages: census.counts[index] ?? noPages(),
      })),
      items: this.#open === undefined ? this.#items : [...this.#items, this.#open],
      itemsLeftOut: this.#itemsLeftOut,
      devices: this.#devices,
      devicesBy: this.#devicesBy,
      error: this.#error,
    };
  }

  // ---- what the decoder tells ------------------------------------------------------------------------------

  configuration(configuration: StreamConfiguration): void {
    this.#configuration = configuration;
    this.#add({ kind: 'configuration', at: 0, endAt: this.decoder.bytesDecoded });
  }

  recovery(at: number): void {
    this.#isRecovery = true;
    this.census.isPostcopy = true;
    this.#add({ kind: 'recovery', at, endAt: at });
  }

  sectionStart(type: 'start' | 'part' | 'end', _sectionId: number, at: number): void {
    this.census.setBlocks(this.decoder.blocks);
    if (type === 'part' && this.#open?.kind === 'ram-parts') {
      this.#open.sections++;
      return;
    }
    const pages = noPages();
    this.census.part = pages;
    if (type === 'part') {
      this.#add({ kind: 'ram-parts', at, endAt: at, sections: 1, pings: 0, flushes: 0, pages });
    } else if (type === 'start') {
      this.#add({ kind: 'ram-start', at, endAt: at, blocks: 0, ramBytes: 0, pages });
    } else {
      this.#add({ kind: 'ram-end', at, endAt: at, pages });
    }
  }

  sectionEnd(_type: 'start' | 'part' | 'end', _sectionId: number, at: number): void {
    if (this.#open !== undefined) this.#open.endAt = at;
  }

  ramBlocks(blocks: readonly AnnouncedRamBlock[]): void {
    this.census.setBlocks(blocks);
    if (this.#open?.kind !== 'ram-start') return;
    this.#open.blocks = blocks.length;
    this.#open.ramBytes = blocks.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
  }

  page(blockIndex: number, offset: number): void {
    this.census.add('normal', blockIndex, offset);
  }

  zeroPage(blockIndex: number, offset: number): void {
    this.census.add('zero', blockIndex, offset);
  }

  xbzrlePage(blockIndex: number, offset: number): void {
    this.census.add('xbzrle', blockIndex, offset);
  }

  multifdFlush(): void {
    if (this.#open?.kind === 'ram-parts') this.#open.flushes++;
  }

  ramSectionEnd(): void {}

  command(command: DecodedCommand, at: number): void {
    const endAt = this.decoder.bytesDecoded;
    const open = this.#open;
    if (command.type === 'packaged-header') {
      this.census.isPostcopy = true;
      this.#package = { at: endAt, bytes: new CollectedBytes(command.lengthBytes) };
      this.#add({ kind: 'package', at, endAt, lengthBytes: command.lengthBytes });
      return;
    }
    if (command.type === 'ping' && open?.kind === 'ram-parts') {
      open.pings++;
      open.endAt = endAt;
      return;
    }
    if (command.type === 'postcopy-ram-discard') {
      const { idstr, ranges } = command;
      const pages = ranges.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0) / TARGET_PAGE_BYTES;
      if (open?.kind !== 'discards' || open.idstr !== idstr) {
        this.#add({ kind: 'discards', at, endAt, idstr, commands: 1, ranges: ranges.length, pages });
        return;
      }
      open.commands++;
      open.ranges += ranges.length;
      open.pages += pages;
      open.endAt = endAt;
      return;
    }
    if (open?.kind === 'command' && JSON.stringify(open.command) === JSON.stringify(command)) {
      open.count++;
      open.endAt = endAt;
      return;
    }
    this.#add({ kind: 'command', at, endAt, command, count: 1 });
  }

  packageBytes(position: number, lengthBytes: number): void {
    this.#package?.bytes.take(this.#buffer, position, position + lengthBytes);
  }

  packageEnd(at: number): void {
    if (this.#open !== undefined) this.#open.endAt = at;
    const { at: packageAt, bytes } = this.#package!;
    this.#package = undefined;
    this.#reading = 'the package';
    const { deviceSections, devicesAt } = openPackage(bytes.bytes, packageAt);
    this.#findDevices(deviceSections, packageAt + devicesAt);
    this.#reading = undefined;
  }

  tailBytes(position: number, lengthBytes: number, at: number): void {
    if (this.#collector === undefined) {
      this.#tailAt = at;
      this.#collector = new DeviceTailCollector(at);
    }
    const tail = this.#collector.push(this.#buffer.subarray(position, position + lengthBytes));
    this.#tail = tail ?? undefined;
  }

  eof(at: number): void {
    this.#add({ kind: 'eof', at, endAt: at + 1 });
  }

  // ---- inside ----------------------------------------------------------------------------------------------

  /** Takes the tail apart, which is complete. @throws {StreamError} also if a description does not fit its sections */
  #takeTail(): void {
    const at = this.#tailAt;
    this.#collector ??= new DeviceTailCollector(this.decoder.bytesDecoded);
    const tail = this.#collector.settle();
    this.#tail = tail;
    const { deviceSections, eofAt, vmDescription } = tail;
    this.#add({ kind: 'devices', at, endAt: eofAt, lengthBytes: deviceSections.length });
    this.#add({ kind: 'eof', at: eofAt, endAt: eofAt + 1 });
    if (vmDescription === undefined) {
      this.#findDevices(deviceSections, at);
      return;
    }
    const endAt = eofAt + 6 + vmDescription.length;
    this.#add({ kind: 'description', at: eofAt + 1, endAt, lengthBytes: vmDescription.length });
    const devices =
      tail.devices ?? walkDeviceSections(deviceSections, decodeVmDescription(vmDescription, eofAt + 6), at);
    this.#setDevices(devices, 'description', deviceSections, at);
  }

  #findDevices(sections: Uint8Array, at: number): void {
    const devices = findDeviceSections(sections, at);
    if (devices !== undefined) this.#setDevices(devices, 'footers', sections, at);
  }

  #setDevices(
    devices: readonly DeviceReport[],
    by: 'description' | 'footers',
    sections: Uint8Array,
    at: number,
  ): void {
    this.#devices = devices.map(({ sectionId, idstr, instanceId, versionId, bodyBytes, at: sectionAt }) => ({
      sectionId,
      idstr,
      instanceId,
      versionId,
      bodyBytes,
      at: sectionAt,
    }));
    this.#devicesBy = by;
    const global = devices.find(({ idstr }) => idstr === GLOBAL_STATE_IDSTR);
    if (global === undefined) return;
    const bodyAt = global.at + 1 + 4 + 1 + global.idstr.length + 8;
    this.#runState = decodeGlobalState(
      sections.subarray(bodyAt - at, bodyAt - at + global.bodyBytes),
      bodyAt,
    );
  }

  #kind(): StreamReport['kind'] {
    if (this.#isRecovery) return 'recovery';
    if (this.#configuration === undefined) return 'unknown';
    if (this.#configuration.capabilities.includes(MAPPED_RAM_CAPABILITY)) return 'mapped-ram';
    return this.decoder.isPostcopy ? 'postcopy' : 'precopy';
  }

  #add(item: StreamItem): void {
    this.#close();
    this.#open = item;
  }

  #close(): void {
    if (this.#open === undefined) return;
    if (this.#items.length < MAX_ITEMS) {
      this.#items.push(this.#open);
      this.#onItem(this.#open);
    } else {
      this.#itemsLeftOut++;
    }
    this.#open = undefined;
  }

  #attempt(action: () => void): void {
    try {
      action();
    } catch (error) {
      if (!(error instanceof StreamError)) throw error;
      const { code, message, at } = error;
      this.#error = { code, message, at, reading: this.#reading ?? this.decoder.reading };
    }
  }
}

/** The usual form, e.g. `00112233-4455-6677-8899-aabbccddeeff`. */
function formatUuid(bytes: Uint8Array): string {
  const hex = Buffer.from(bytes).toString('hex');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}
