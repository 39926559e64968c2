/**
 * Decodes the main stream of a machine that is not known here: any machine type, blocks as it announces them.
 *
 * Twin of `StreamDecoder`, which a destination uses; bytes go in and positions come out in the same way. What only the
 * devices themselves can read is passed on as it is: the package of a postcopy, and all that follows RAM in a precopy.
 *
 *   'Q' ─▶ configuration ─▶ section type ◀──────────────── footer
 *   08 ──▶ (recovery) ─────▶ │   │   │                        ▲
 *                            │   │   └─ START PART END ─▶ ram ┤
 *                            │   └─ COMMAND ─▶ (package)      │
 *                            │                                └─ END of RAM in a precopy ─▶ tail
 *                            ├─ FULL after a PART ─────────────────────────────────────────▶ tail
 *                            └─ EOF of a postcopy ─▶ ended
 *
 * Sections whose length nobody can know here are refused before they begin, so that nothing is ever misread.
 */
import assert from 'node:assert/strict';
import { AnnouncedBlocksDecoder, type AnnouncedRamBlock } from './announced-blocks-decoder.ts';
import { hex } from './ascii-text.ts';
import { CommandDecoder } from './command-decoder.ts';
import { ConfigurationDecoder } from './configuration-decoder.ts';
import { InputBuffer } from './input-buffer.ts';
import type { OpenStreamHandler } from './open-stream-handler.ts';
import { endsWithRun, PACKAGE_FIRST_BYTES, RUN_BYTES } from './package.ts';
import { TARGET_PAGE_BYTES } from './ram-record.ts';
import { RamRecordDecoder } from './ram-record-decoder.ts';
import { decodeSectionHeader } from './section-header.ts';
import {
  type BodySectionType,
  FILE_MAGIC,
  IGNORE_SHARED_CAPABILITY,
  MAPPED_RAM_CAPABILITY,
  RAM_IDSTR,
  RAM_INSTANCE_ID,
  RAM_VERSION_ID,
  SECTION_CONTINUATION_BYTES,
  SECTION_FOOTER_BYTES,
  SectionType,
} from './sections.ts';
import { MIN_STREAM_BUFFER_BYTES } from './stream-decoder.ts';
import type { StreamError, StreamErrorCode } from './stream-error.ts';
import { STREAM_LIMITS, type StreamLimits } from './stream-limits.ts';

export type { AnnouncedRamBlock } from './announced-blocks-decoder.ts';
export type { OpenStreamHandler, StreamConfiguration } from './open-stream-handler.ts';

export interface OpenStreamDecoderOptions {
  /** The memory to receive into: `MIN_STREAM_BUFFER_BYTES` or more. */
  readonly buffer: Uint8Array;
  readonly handler: OpenStreamHandler;
  /** The package may be as long as the format can say (4 GiB), since it is not kept here, unless this says less. */
  readonly limits?: Partial<StreamLimits>;
  /**
   * `migration` begins with a file header, `recovery` does not; `any` by default. The blocks and the RAM section of the
   * migration that a recovery continues can be given; else they are learned from the names that it uses.
   */
  readonly accept?: 'any' | 'migration' | 'recovery';
  readonly continued?: { readonly blocks: readonly AnnouncedRamBlock[]; readonly ramSectionId: number };
  /** For a mapped-ram file: the file offset of stream byte 0. */
  readonly fileOffset?: number;
}

type State =
  | 'ram'
  | 'begin'
  | 'configuration'
  | 'section-type'
  | 'footer'
  | 'command'
  | 'package'
  | 'tail'
  | 'ended';

/** What is being read, in words. */
const READING: Record<State, string> = {
  ram: 'a RAM section',
  begin: 'the file header',
  configuration: 'the file header',
  'section-type': 'the type of a section',
  footer: 'the footer of a RAM section',
  command: 'a command',
  package: 'the package',
  tail: 'device state',
  ended: 'what follows the end',
};

/** Length of a block in a recovered stream that does not say it. */
const UNKNOWN_LENGTH_BYTES = Number.MAX_SAFE_INTEGER;

export class OpenStreamDecoder {
  readonly #input: InputBuffer;
  readonly #handler: OpenStreamHandler;
  readonly #limits: StreamLimits;
  readonly #accept: 'any' | 'migration' | 'recovery';
  readonly #fileOffset: number;
  readonly #configuration: ConfigurationDecoder;
  #ram: RamRecordDecoder | null = null;
  /** Known from the configuration on. */
  #memSize: AnnouncedBlocksDecoder | null = null;
  #commands: CommandDecoder | null = null;
  #blocks: AnnouncedRamBlock[] = [];
  /** Whether a name of a block that is not known yet makes it known: a recovery of a migration that was not seen. */
  #areBlocksLearned = false;
  #state: State = 'begin';
  #isPaused = false;
  #isSpent = false;
  #sectionType: Exclude<BodySectionType, 'full'> = 'start';
  #ramSectionId: number | null;
  #isRamComplete = false;
  #pageSizeSummary = 0;
  #packageBytes = 0;
  #packageMissingBytes = 0;
  /** The last bytes of the package, as far as it has come. */
  #packageTail: Uint8Array = new Uint8Array(0);

  constructor(options: OpenStreamDecoderOptions) {
    const { buffer, handler, accept = 'any', continued, fileOffset = 0 } = options;
    this.#limits = { ...STREAM_LIMITS, packageBytes: 0xffff_ffff, ...options.limits };
    assert(buffer.length >= MIN_STREAM_BUFFER_BYTES, 'the buffer is too small');
    assert(
      MIN_STREAM_BUFFER_BYTES > Math.max(this.#limits.commandBytes, this.#limits.machineTypeBytes) + 512,
    );
    this.#input = new InputBuffer(buffer, 'stream');
    this.#handler = handler;
    this.#accept = accept;
    this.#fileOffset = fileOffset;
    this.#blocks = [...(continued?.blocks ?? [])];
    this.#areBlocksLearned = continued === undefined;
    this.#ramSectionId = continued?.ramSectionId ?? null;
    this.#configuration = new ConfigurationDecoder(
      this.#input,
      undefined,
      this.#limits.machineTypeBytes,
      () => {},
    );
  }

  /** Whether the last byte of the stream was decoded; never in a precopy, whose end only its tail can tell. */
  get ended(): boolean {
    return this.#state === 'ended';
  }

  /** Whether all that comes is the tail of a precopy. */
  get inTail(): boolean {
    return this.#state === 'tail';
  }

  /** What is being read, in words: for a text about an error, or about a stream that ends here. */
  get reading(): string {
    return READING[this.#state];
  }

  /** Stream byte that is decoded next. */
  get bytesDecoded(): number {
    return this.#input.at(this.#input.position);
  }

  /** The blocks announced, or named by a recovery: their lengths are then `Number.MAX_SAFE_INTEGER`. */
  get blocks(): readonly AnnouncedRamBlock[] {
    return this.#blocks;
  }

  /** The section id that the source gave to RAM, or null before START. */
  get ramSectionId(): number | null {
    return this.#ramSectionId;
  }

  /** Whether the device state came in a package, and only RAM still comes. */
  get isPostcopy(): boolean {
    return this.#commands?.isPostcopy ?? false;
  }

  /** What was decoded since `free()` was called last; it stands in the buffer until that is called next. */
  get decoded(): Uint8Array {
    return this.#input.bytes.subarray(0, this.#input.position);
  }

  /** What was received and is not decoded yet, because more is needed. */
  get undecoded(): Uint8Array {
    return this.#input.bytes.subarray(this.#input.position, this.#input.end);
  }

  /** How many of the next bytes are pages of a mapped-ram file: who reads a file may `skip()` them. */
  get skippableBytes(): number {
    return this.#input.available === 0 ? (this.#memSize?.areaBytes ?? 0) : 0;
  }

  /** Leaves out `countBytes` bytes of the stream, at most `skippableBytes`; call `run()` then. */
  skip(countBytes: number): void {
    assert(countBytes <= this.skippableBytes);
    this.#memSize?.skipped(countBytes);
    this.#input.skip(countBytes);
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
   * @throws {StreamError}; this decoder is then spent, as it is after an error of the handler. What `decoded` holds was
   *   legal.
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
   * The peer closed, and everything it sent was committed and run. Whether a tail is complete its collector tells.
   *
   * @throws {StreamError} `TRUNCATED` unless the stream may end here
   */
  end(): void {
    assert(!this.#isPaused, 'cannot end while paused');
    if (this.#state === 'ended' || this.#state === 'tail') return;
    const what =
      this.#state === 'section-type' ? 'the migration, before EOF' : `the middle of ${READING[this.#state]}`;
    throw this.#input.error('TRUNCATED', `The stream ended in ${what}`, this.#input.end);
  }

  /** Decodes one thing. Returns false if more bytes are needed. */
  #step(): boolean {
    switch (this.#state) {
      case 'ram':
        return this.#stepRam();
      case 'begin':
        return this.#stepBegin();
      case 'configuration':
        return this.#stepConfiguration();
      case 'section-type':
        return this.#stepSectionType();
      case 'footer':
        return this.#stepFooter();
      case 'command':
        return this.#stepCommand();
      case 'package':
        return this.#stepPackage();
      case 'tail':
        return this.#stepTail();
      case 'ended':
        return this.#stepEnded();
    }
  }

  #stepBegin(): boolean {
    const input = this.#input;
    if (input.available === 0) return false;
    const isMagic = input.bytes[input.position] === FILE_MAGIC >>> 24;
    const isCommand = input.bytes[input.position] === SectionType.COMMAND;
    if (isMagic && this.#accept === 'recovery') {
      const what = 'A new migration begins, where one that was interrupted should go on';
      throw this.#error('BAD_MAGIC', what);
    }
    if (!isCommand || this.#accept === 'migration') {
      this.#state = 'configuration';
      return true;
    }
    this.#handler.recovery(input.at(input.position));
    this.#beginSections('resumed', []);
    return true;
  }

  #stepConfiguration(): boolean {
    if (!this.#configuration.step()) return false;
    if (!this.#configuration.isDone) return true;
    const { machineType, uuid, capabilities } = this.#configuration;
    this.#areBlocksLearned = false;
    this.#blocks = [];
    this.#ramSectionId = null;
    this.#beginSections('precopy', capabilities);
    this.#handler.configuration({ machineType, uuid, capabilities }, 0);
    return true;
  }

  #beginSections(phase: 'precopy' | 'resumed', capabilities: readonly string[]): void {
    const input = this.#input;
    const handler = this.#handler;
    this.#commands = new CommandDecoder(input, (idstr) => this.#findBlock(idstr), this.#limits, phase);
    this.#memSize = new AnnouncedBlocksDecoder(input, {
      limits: this.#limits,
      hasGpa: capabilities.includes(IGNORE_SHARED_CAPABILITY),
      isMapped: capabilities.includes(MAPPED_RAM_CAPABILITY),
      fileOffset: this.#fileOffset,
    });
    this.#ram = new RamRecordDecoder(
      input,
      this.#memSize,
      {
        ramBlocks: (_blocks, at) => this.#onRamBlocks(at),
        page: (blockIndex, offset, position) =>
          handler.page(blockIndex, offset, position, input.at(position)),
        zeroPage: (blockIndex, offset, record) => handler.zeroPage(blockIndex, offset, input.at(record)),
        ramSectionEnd: (record) => handler.ramSectionEnd(input.at(record)),
      },
      {
        xbzrlePage: (blockIndex, offset, position, lengthBytes) =>
          handler.xbzrlePage(blockIndex, offset, position, lengthBytes, input.at(position)),
        multifdFlush: (record) => handler.multifdFlush(input.at(record)),
      },
    );
    this.#ram.blocks = this.#blocks;
    this.#ram.isPostcopy = phase === 'resumed';
    this.#state = 'section-type';
  }

  #onRamBlocks(at: number): void {
    this.#blocks = [...this.#memSize!.announced];
    this.#ram!.blocks = this.#blocks;
    this.#handler.ramBlocks(this.#blocks, at);
  }

  /** The block of a command; one that a recovery names for the first time is one from now on. */
  #findBlock(idstr: string): AnnouncedRamBlock | undefined {
    const block = this.#blocks.find((each) => each.idstr === idstr);
    if (block !== undefined || !this.#areBlocksLearned || this.#blocks.length === this.#limits.blocks) {
      return block;
    }
    const learned = { idstr, lengthBytes: UNKNOWN_LENGTH_BYTES, pageSizeBytes: TARGET_PAGE_BYTES };
    this.#blocks = [...this.#blocks, learned];
    this.#ram!.blocks = this.#blocks;
    return learned;
  }

  #stepSectionType(): boolean {
    const input = this.#input;
    if (input.available === 0) return false;
    const type = input.bytes[input.position]!;
    switch (type) {
      case SectionType.COMMAND:
        this.#state = 'command';
        return true;
      case SectionType.FULL:
        if (this.#isWithoutRamEnd) {
          this.#state = 'tail';
          return true;
        }
        return this.#stepStartHeader(type);
      case SectionType.START:
        return this.#stepStartHeader(type);
      case SectionType.PART:
        return this.#stepContinuationHeader('part');
      case SectionType.END:
        return this.#stepContinuationHeader('end');
      case SectionType.EOF:
        return this.#stepEof();
      default:
        throw this.#error('BAD_SECTION', `Unknown section type ${hex(type)}`);
    }
  }

  /**
   * Whether devices may come now although RAM has no END: with `background-snapshot` they were saved before RAM was, and
   * follow its last PART. Devices that are sent early come before its first.
   */
  get #isWithoutRamEnd(): boolean {
    return this.#sectionType === 'part' && !this.isPostcopy;
  }

  #stepStartHeader(type: typeof SectionType.START | typeof SectionType.FULL): boolean {
    if (this.isPostcopy) {
      throw this.#error('BAD_SECTION', 'A section starts after the package, where only RAM goes on');
    }
    const input = this.#input;
    const header = decodeSectionHeader(input);
    if (header === null) return false;
    const { sectionId, idstr, instanceId, versionId } = header;
    if (type === SectionType.FULL || idstr !== RAM_IDSTR || instanceId !== RAM_INSTANCE_ID) {
      throw this.#error(
        'UNSUPPORTED',
        `Section '${idstr}' ${instanceId} comes before RAM is complete, and only that device can tell where it ends; detach the device, or switch off what sends it, at the source`,
      );
    }
    if (this.#ramSectionId !== null) throw this.#error('BAD_SECTION', 'RAM starts twice');
    if (versionId !== RAM_VERSION_ID) {
      throw this.#error('BAD_VERSION', `Version of 'ram' must be ${RAM_VERSION_ID}, got ${versionId}`);
    }
    const at = input.at(input.position);
    input.position += header.lengthBytes;
    this.#ramSectionId = sectionId;
    this.#memSize!.pageSizeSummary = this.#pageSizeSummary;
    this.#ram!.beginSection(true);
    this.#beginSection('start', at);
    return true;
  }

  #stepContinuationHeader(type: 'part' | 'end'): boolean {
    const input = this.#input;
    if (input.available < SECTION_CONTINUATION_BYTES) return false;
    const sectionId = input.view.getUint32(input.position + 1);
    // A recovery of a migration that was not seen: only RAM is left of it.
    if (this.#ramSectionId === null && this.#areBlocksLearned) this.#ramSectionId = sectionId;
    if (sectionId !== this.#ramSectionId) {
      throw this.#error('BAD_SECTION', `Unknown savevm section ${sectionId}`);
    }
    if (this.#isRamComplete) throw this.#error('BAD_SECTION', 'A RAM section follows the END of RAM');
    const at = input.at(input.position);
    input.position += SECTION_CONTINUATION_BYTES;
    this.#ram!.beginSection(false);
    this.#beginSection(type, at);
    return true;
  }

  #beginSection(type: Exclude<BodySectionType, 'full'>, at: number): void {
    this.#sectionType = type;
    this.#state = 'ram';
    this.#handler.sectionStart(type, this.#ramSectionId!, at);
  }

  #stepRam(): boolean {
    const ram = this.#ram!;
    if (!ram.step()) return false;
    if (!ram.inSection) this.#state = 'footer';
    return true;
  }

  #stepFooter(): boolean {
    const input = this.#input;
    if (input.available === 0) return false;
    const mark = input.bytes[input.position]!;
    if (mark !== SectionType.FOOTER) {
      const what = `Footer of section 'ram' missing: byte must be ${hex(SectionType.FOOTER)}, got ${hex(mark)}`;
      throw this.#error('BAD_FOOTER', what);
    }
    if (input.available < SECTION_FOOTER_BYTES) return false;
    const sectionId = input.view.getUint32(input.position + 1);
    if (sectionId !== this.#ramSectionId) {
      const what = `Footer of section 'ram' must have id ${this.#ramSectionId}, got ${sectionId}`;
      throw this.#error('BAD_FOOTER', what);
    }
    input.position += SECTION_FOOTER_BYTES;
    this.#isRamComplete = this.#sectionType === 'end';
    this.#state = this.#isRamComplete && !this.isPostcopy ? 'tail' : 'section-type';
    this.#handler.sectionEnd(this.#sectionType, sectionId, this.bytesDecoded);
    return true;
  }

  #stepCommand(): boolean {
    const at = this.bytesDecoded;
    const command = this.#commands!.stepForeign({
      isRamStarted: this.#ramSectionId !== null,
      isRamComplete: this.#isRamComplete,
    });
    if (command === null) return false;
    this.#state = 'section-type';
    if (command.type === 'postcopy-advise') this.#pageSizeSummary = command.pageSizeSummary;
    if (command.type === 'packaged-header') {
      this.#packageBytes = command.lengthBytes;
      this.#packageMissingBytes = command.lengthBytes;
      this.#ram!.isPostcopy = true;
      this.#state = 'package';
    }
    this.#handler.command(command, at);
    return true;
  }

  #stepPackage(): boolean {
    const input = this.#input;
    if (this.#packageMissingBytes === 0) {
      this.#state = 'section-type';
      const holdsRun = endsWithRun(this.#packageTail);
      if (holdsRun) this.#commands!.sawRun();
      this.#handler.packageEnd(input.at(input.position), holdsRun);
      return true;
    }
    if (this.#packageMissingBytes === this.#packageBytes && !this.#isPackageBegun()) return false;
    const pieceBytes = Math.min(input.available, this.#packageMissingBytes);
    if (pieceBytes === 0) return false;
    const { position } = input;
    input.position += pieceBytes;
    this.#packageMissingBytes -= pieceBytes;
    const lastBytes = input.bytes.subarray(Math.max(position, input.position - RUN_BYTES), input.position);
    this.#packageTail = Buffer.concat([this.#packageTail, lastBytes]).subarray(-RUN_BYTES);
    this.#handler.packageBytes(position, pieceBytes, input.at(position));
    return true;
  }

  /** Whether the first bytes of the package are there; they must say LISTEN. */
  #isPackageBegun(): boolean {
    const input = this.#input;
    const haveBytes = Math.min(input.available, PACKAGE_FIRST_BYTES.length);
    for (let index = 0; index < haveBytes; index++) {
      const got = input.bytes[input.position + index]!;
      const required = PACKAGE_FIRST_BYTES[index]!;
      if (got === required) continue;
      const what = `The package must begin with POSTCOPY_LISTEN: byte must be ${hex(required)}, got ${hex(got)}`;
      throw input.error('BAD_COMMAND', what, input.position + index);
    }
    return haveBytes === PACKAGE_FIRST_BYTES.length;
  }

  #stepEof(): boolean {
    const input = this.#input;
    if (!this.#isRamComplete) throw this.#error('BAD_SECTION', 'EOF comes before the END of RAM');
    input.position += 1;
    this.#state = 'ended';
    this.#handler.eof(input.at(input.position) - 1);
    return true;
  }

  #stepTail(): boolean {
    const input = this.#input;
    const { position, available } = input;
    if (available === 0) return false;
    input.position += available;
    this.#handler.tailBytes(position, available, input.at(position));
    return false;
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
