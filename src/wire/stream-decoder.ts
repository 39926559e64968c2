/**
 * Decodes the main stream of a migration for a destination, or the package inside it, into calls of a handler.
 *
 * Bytes go into memory the caller gives, pages are handed out as positions in it; nothing is allocated per page.
 *
 *   configuration ──▶ section type ◀──┬────────────────────────────────────── footer
 *                      │              │                                         ▲
 *                      ├─ START PART END ──▶ ram ───────────────────────────────┤
 *                      ├─ FULL ──▶ device ──────────────────────────────────────┘
 *                      ├─ COMMAND ──▶ (package) ──▶ section type
 *                      └─ EOF ──▶ after eof ──▶ VM description ──▶ ended
 *
 * Each state has a method that decodes one thing once all of it is there; what can be refused before, is. The peer is
 * hostile: every length has a limit, every block and range is checked against ours.
 *
 * A package (`embedded`) is a stream of its own: no configuration, only commands and device sections, and it ends with
 * POSTCOPY_RUN, or behind any of them if RUN follows in the stream. A recovered stream (`resumed`) has no configuration either and is in the postcopy phase at once.
 */
import assert from 'node:assert/strict';
import { hex } from './ascii-text.ts';
import { CommandDecoder } from './command-decoder.ts';
import { ConfigurationDecoder } from './configuration-decoder.ts';
import { DeviceSectionDecoder, type ExpectedDevice } from './device-section-decoder.ts';
import { InputBuffer } from './input-buffer.ts';
import { ExpectedBlocksDecoder } from './mem-size-decoder.ts';
import { PAGE_RECORD_MAX_BYTES, type WireRamBlock } from './ram-record.ts';
import { RamRecordDecoder } from './ram-record-decoder.ts';
import { decodeSectionHeader, unknownSection } from './section-header.ts';
import {
  type BodySectionType,
  RAM_IDSTR,
  RAM_INSTANCE_ID,
  RAM_VERSION_ID,
  SECTION_CONTINUATION_BYTES,
  SECTION_FOOTER_BYTES,
  SectionType,
} from './sections.ts';
import type { StreamError, StreamErrorCode } from './stream-error.ts';
import type { StreamHandler } from './stream-handler.ts';
import { STREAM_LIMITS, type StreamLimits } from './stream-limits.ts';

export type { ExpectedDevice } from './device-section-decoder.ts';

export interface StreamDecoderOptions {
  /** The memory to receive into; for `embedded` the package itself. Its size: `MIN_STREAM_BUFFER_BYTES` or more. */
  readonly buffer: Uint8Array;
  readonly machineType: string;
  readonly blocks: readonly WireRamBlock[];
  readonly devices: readonly ExpectedDevice[];
  readonly limits?: Partial<StreamLimits>;
  readonly handler: StreamHandler;
  /** The stream is the content of a package. */
  readonly embedded?: boolean;
  /** The stream continues a postcopy that was interrupted, on another connection. */
  readonly resumed?: { readonly ramSectionId: number; readonly hasChecksums?: boolean };
}

const FILE_MAGIC_FIRST_BYTE = 0x51;

type State =
  | 'ram'
  | 'configuration'
  | 'section-type'
  | 'device'
  | 'footer'
  | 'command'
  | 'after-eof'
  | 'vm-description'
  | 'ended';

/** What the stream ended in the middle of, in words. */
const IN_THE_MIDDLE_OF: Record<Exclude<State, 'after-eof' | 'vm-description' | 'ended'>, string> = {
  ram: 'a RAM section',
  configuration: 'the configuration',
  'section-type': 'the migration, before EOF',
  device: 'a device section',
  footer: 'a section footer',
  command: 'a command',
};

/** Room for the longest thing that must be there in one piece, and for reading well beyond it. */
export const MIN_STREAM_BUFFER_BYTES = 16 * 1024;

export class StreamDecoder {
  readonly #input: InputBuffer;
  readonly #handler: StreamHandler;
  readonly #limits: StreamLimits;
  readonly #configuration: ConfigurationDecoder;
  readonly #memSize: ExpectedBlocksDecoder;
  readonly #ram: RamRecordDecoder;
  readonly #commands: CommandDecoder;
  readonly #devices: DeviceSectionDecoder;
  readonly #isEmbedded: boolean;
  readonly #isResumed: boolean;
  #state: State;
  #isPaused = false;
  #isSpent = false;

  /** The section being decoded. */
  #sectionType: BodySectionType = 'start';
  #sectionId = 0;
  #sectionIdstr = '';

  /** The id that START bound to RAM, null before. */
  #ramSectionId: number | null;
  #isRamComplete = false;
  #vmDescriptionBytes = 0;
  #vmDescriptionMissingBytes = 0;

  constructor(options: StreamDecoderOptions) {
    const { buffer, machineType, blocks, handler, embedded = false, resumed } = options;
    this.#limits = { ...STREAM_LIMITS, ...options.limits };
    assert(!(embedded && resumed !== undefined), 'a package cannot be resumed');
    assert(embedded || buffer.length >= MIN_STREAM_BUFFER_BYTES, 'the buffer is too small');
    assert(MIN_STREAM_BUFFER_BYTES >= PAGE_RECORD_MAX_BYTES);
    assert(
      MIN_STREAM_BUFFER_BYTES > Math.max(this.#limits.commandBytes, this.#limits.machineTypeBytes) + 512,
    );
    this.#input = new InputBuffer(buffer, embedded ? 'package' : 'stream');
    this.#handler = handler;
    this.#configuration = new ConfigurationDecoder(
      this.#input,
      machineType,
      this.#limits.machineTypeBytes,
      (received) => handler.configuration(received),
    );
    this.#memSize = new ExpectedBlocksDecoder(this.#input, blocks);
    this.#ram = new RamRecordDecoder(this.#input, this.#memSize, handler);
    this.#ram.blocks = blocks;
    this.#ram.hasChecksums = resumed?.hasChecksums ?? false;
    const phase = embedded ? 'package' : resumed === undefined ? 'precopy' : 'resumed';
    const findBlock = (idstr: string) => blocks.find((block) => block.idstr === idstr);
    this.#commands = new CommandDecoder(this.#input, findBlock, this.#limits, phase);
    this.#devices = new DeviceSectionDecoder(this.#input, options.devices);
    this.#isEmbedded = embedded;
    this.#isResumed = resumed !== undefined;
    this.#ramSectionId = resumed?.ramSectionId ?? null;
    this.#state = embedded || resumed !== undefined ? 'section-type' : 'configuration';
  }

  /** Whether the last byte of the stream was decoded. */
  get ended(): boolean {
    return this.#state === 'ended';
  }

  /** Stream byte that is decoded next. */
  get bytesDecoded(): number {
    return this.#input.at(this.#input.position);
  }

  /** Whether the pages have checksums: a recovery has to go on with them. */
  get hasChecksums(): boolean {
    return this.#ram.hasChecksums;
  }

  /** The section id that the source gave to RAM, or null before START: what a recovery has to go on with. */
  get ramSectionId(): number | null {
    return this.#ramSectionId;
  }

  /**
   * The memory to read into next. Moves what is not decoded yet, so positions handed out before are no longer valid.
   * Empty only while paused.
   */
  free(): Uint8Array {
    return this.#input.free();
  }

  /** The first `countBytes` of what `free()` returned were read from the peer. */
  commit(countBytes: number): void {
    this.#input.commit(countBytes);
  }

  /**
   * Decodes all that is there, until more bytes are needed, the handler pauses, or the stream ends.
   *
   * @throws {StreamError}; this decoder is then spent, as it is after an error of the handler
   */
  run(): void {
    assert(!this.#isSpent, 'the decoder has failed before');
    this.#isSpent = true;
    while (!this.#isPaused && this.#step()) {}
    this.#isSpent = false;
  }

  /** Stops `run()` after what is being decoded; for use by the handler. */
  pause(): void {
    this.#isPaused = true;
  }

  /** Undoes `pause()`; call `run()` then. */
  resume(): void {
    this.#isPaused = false;
  }

  /**
   * The peer closed, and everything it sent was committed and run.
   *
   * @throws {StreamError} `TRUNCATED` unless the stream may end here
   */
  end(): void {
    assert(!this.#isPaused, 'cannot end while paused');
    switch (this.#state) {
      case 'ended':
        return;
      case 'after-eof':
      case 'vm-description': // Nothing that matters can be missing.
        this.#state = 'ended';
        return;
      default: {
        if (this.#isEmbedded && this.#state === 'section-type' && this.#input.available === 0) return;
        const stream = this.#isEmbedded ? 'package' : 'stream';
        const what = `The ${stream} ended in the middle of ${IN_THE_MIDDLE_OF[this.#state]}`;
        throw this.#input.error('TRUNCATED', what, this.#input.end);
      }
    }
  }

  /** Decodes one thing. Returns false if more bytes are needed. */
  #step(): boolean {
    switch (this.#state) {
      case 'ram':
        return this.#stepRam();
      case 'configuration':
        return this.#stepConfiguration();
      case 'section-type':
        return this.#stepSectionType();
      case 'device':
        return this.#stepDevice();
      case 'footer':
        return this.#stepFooter();
      case 'command':
        return this.#stepCommand();
      case 'after-eof':
        return this.#stepAfterEof();
      case 'vm-description':
        return this.#stepVmDescription();
      case 'ended':
        return this.#stepEnded();
    }
  }

  #stepConfiguration(): boolean {
    if (!this.#configuration.step()) return false;
    if (this.#configuration.isDone) this.#state = 'section-type';
    return true;
  }

  #stepSectionType(): boolean {
    const input = this.#input;
    if (input.available === 0) return false;
    const type = input.bytes[input.position]!;
    if (type === SectionType.COMMAND) {
      this.#state = 'command';
      return true;
    }
    if (type === SectionType.FULL) return this.#stepFullHeader();
    if (this.#isEmbedded) throw this.#error('BAD_SECTION', `Section type ${hex(type)} in a package`);
    switch (type) {
      case SectionType.START:
        return this.#stepStartHeader();
      case SectionType.PART:
        return this.#stepContinuationHeader('part');
      case SectionType.END:
        return this.#stepContinuationHeader('end');
      case SectionType.EOF:
        return this.#stepEof();
      default:
        if (this.#isResumed && this.bytesDecoded === 0 && type === FILE_MAGIC_FIRST_BYTE) {
          const what =
            'A new migration begins here (QEVM), instead of the recovery of the one that is paused';
          throw this.#error('BAD_SECTION', what);
        }
        throw this.#error('BAD_SECTION', `Unknown section type ${hex(type)}`);
    }
  }

  #stepStartHeader(): boolean {
    if (this.#ramSectionId !== null) {
      throw this.#error('BAD_SECTION', 'A section starts, but RAM has started and nothing else may');
    }
    const header = decodeSectionHeader(this.#input);
    if (header === null) return false;
    const { sectionId, idstr, instanceId, versionId } = header;
    if (idstr !== RAM_IDSTR || instanceId !== RAM_INSTANCE_ID) {
      throw unknownSection(this.#input, header);
    }
    if (versionId !== RAM_VERSION_ID) {
      throw this.#error('BAD_VERSION', `Version of 'ram' must be ${RAM_VERSION_ID}, got ${versionId}`);
    }
    this.#input.position += header.lengthBytes;
    this.#ramSectionId = sectionId;
    this.#ram.beginSection(true);
    this.#beginSection('start', sectionId, idstr, 'ram');
    return true;
  }

  #stepContinuationHeader(type: 'part' | 'end'): boolean {
    const input = this.#input;
    if (input.available < SECTION_CONTINUATION_BYTES) return false;
    const sectionId = input.view.getUint32(input.position + 1);
    if (sectionId !== this.#ramSectionId) {
      throw this.#error('BAD_SECTION', `Unknown savevm section ${sectionId}`);
    }
    if (this.#isRamComplete) throw this.#error('BAD_SECTION', 'A RAM section follows the END of RAM');
    input.position += SECTION_CONTINUATION_BYTES;
    this.#ram.beginSection(false);
    this.#beginSection(type, sectionId, RAM_IDSTR, 'ram');
    return true;
  }

  #stepFullHeader(): boolean {
    if (this.#commands.isPostcopy) {
      throw this.#error('BAD_SECTION', 'A device section follows the package that holds the devices');
    }
    const header = decodeSectionHeader(this.#input);
    if (header === null) return false;
    this.#devices.begin(header);
    this.#input.position += header.lengthBytes;
    this.#beginSection('full', header.sectionId, header.idstr, 'device');
    return true;
  }

  #beginSection(type: BodySectionType, sectionId: number, idstr: string, next: State): void {
    this.#sectionType = type;
    this.#sectionId = sectionId;
    this.#sectionIdstr = idstr;
    this.#state = next;
    this.#handler.sectionStart(type, sectionId, idstr);
  }

  #stepRam(): boolean {
    if (!this.#ram.step()) return false;
    if (!this.#ram.inSection) this.#state = 'footer';
    return true;
  }

  #stepDevice(): boolean {
    if (!this.#devices.step()) return false;
    this.#state = 'footer';
    return true;
  }

  #stepFooter(): boolean {
    const input = this.#input;
    if (input.available === 0) return false;
    const mark = input.bytes[input.position]!;
    if (mark !== SectionType.FOOTER) {
      const what = `Footer of section '${this.#sectionIdstr}' missing: byte must be ${hex(SectionType.FOOTER)}, got ${hex(mark)}`;
      throw this.#error('BAD_FOOTER', what);
    }
    if (input.available < SECTION_FOOTER_BYTES) return false;
    const sectionId = input.view.getUint32(input.position + 1);
    if (sectionId !== this.#sectionId) {
      const what = `Footer of section '${this.#sectionIdstr}' must have id ${this.#sectionId}, got ${sectionId}`;
      throw this.#error('BAD_FOOTER', what);
    }
    input.position += SECTION_FOOTER_BYTES;
    this.#state = 'section-type';
    this.#endSection();
    return true;
  }

  #endSection(): void {
    if (this.#sectionType === 'end') this.#isRamComplete = true;
    const loaded = this.#devices.take();
    if (loaded !== null) this.#handler.device(loaded.device.idstr, loaded.state, loaded.device.instanceId);
    this.#handler.sectionEnd(this.#sectionType, this.#sectionId, this.#sectionIdstr);
  }

  #stepCommand(): boolean {
    const command = this.#commands.step({
      isRamStarted: this.#ramSectionId !== null,
      isRamComplete: this.#isRamComplete,
    });
    if (command === null) return false;
    this.#state = 'section-type';
    if (command.type === 'postcopy-advise') this.#memSize.isPostcopyAdvised = true;
    if (command.type === 'postcopy-run' && this.#isEmbedded) {
      // Nothing may run on the word of a package that is not exactly what it said to be.
      if (this.#input.available > 0) {
        throw this.#error('BAD_LENGTH', `${this.#input.available} bytes follow POSTCOPY_RUN`);
      }
      this.#state = 'ended';
    }
    this.#handler.command(command);
    return true;
  }

  #stepEof(): boolean {
    if (!this.#isRamComplete) throw this.#error('BAD_SECTION', 'EOF comes before the END of RAM');
    this.#input.position += 1;
    this.#state = this.#commands.isPostcopy ? 'ended' : 'after-eof';
    this.#handler.eof();
    return true;
  }

  #stepAfterEof(): boolean {
    const input = this.#input;
    if (input.available === 0) return false;
    const type = input.bytes[input.position]!;
    if (type !== SectionType.VMDESCRIPTION) {
      throw this.#error('BAD_SECTION', `Only a VM description may follow EOF, got section type ${hex(type)}`);
    }
    if (input.available < 5) return false;
    const lengthBytes = input.view.getUint32(input.position + 1);
    const maxBytes = this.#limits.vmDescriptionBytes;
    if (lengthBytes > maxBytes) {
      throw this.#error('LIMIT', `VM description must take at most ${maxBytes} bytes, got ${lengthBytes}`);
    }
    input.position += 5;
    this.#vmDescriptionBytes = lengthBytes;
    this.#vmDescriptionMissingBytes = lengthBytes;
    this.#state = 'vm-description';
    return true;
  }

  #stepVmDescription(): boolean {
    const input = this.#input;
    const skippedBytes = Math.min(input.available, this.#vmDescriptionMissingBytes);
    input.position += skippedBytes;
    this.#vmDescriptionMissingBytes -= skippedBytes;
    if (this.#vmDescriptionMissingBytes > 0) return false;
    this.#state = 'ended';
    this.#handler.vmDescription(this.#vmDescriptionBytes);
    return true;
  }

  #stepEnded(): boolean {
    if (this.#input.available > 0) {
      throw this.#error('BAD_LENGTH', 'Bytes follow the end of the stream');
    }
    return false;
  }

  #error(code: StreamErrorCode, what: string): StreamError {
    return this.#input.error(code, what, this.#input.position);
  }
}
