/**
 * Streams and a recording handler for the tests of this folder and of those that use it.
 *
 * The example machine has a block of 8 target pages and one backed by a 2 MiB page, and one device with its state.
 */
import { ByteWriter } from './byte-writer.ts';
import {
  encodeAdvise,
  encodeCommand,
  encodeDiscards,
  encodePackagedHeader,
  encodePing,
  MigrationCommand,
} from './commands.ts';
import { encodeGlobalState, encodeLengthPrefixed, writeDeviceSection } from './device-sections.ts';
import {
  RamSaveFlag,
  TARGET_PAGE_BYTES,
  writeMemSize,
  writePageHeader,
  writeRamEos,
  writeZeroPage,
} from './ram-record.ts';
import {
  RAM_IDSTR,
  RAM_VERSION_ID,
  SectionType,
  writeEof,
  writeFileHeader,
  writeSectionContinuation,
  writeSectionFooter,
  writeSectionStart,
} from './sections.ts';
import { MIN_STREAM_BUFFER_BYTES, StreamDecoder, type StreamDecoderOptions } from './stream-decoder.ts';
import type { StreamHandler } from './stream-handler.ts';

export const EXAMPLE_MACHINE_TYPE = 'example-1';
export const EXAMPLE_BLOCKS = [
  { idstr: 'pc.ram', lengthBytes: 8 * TARGET_PAGE_BYTES, pageSizeBytes: TARGET_PAGE_BYTES },
  { idstr: 'huge', lengthBytes: 2 * 1024 * 1024, pageSizeBytes: 2 * 1024 * 1024 },
] as const;
export const EXAMPLE_DEVICES = [
  { idstr: 'example', instanceId: 0, versionId: 1, body: 'length-prefixed', maxBytes: 4096 },
  { idstr: 'globalstate', instanceId: 0, versionId: 1, body: 'global-state', maxBytes: 0 },
] as const;
export const RAM_SECTION_ID = 2;

/** Hexadecimal digits, blanks ignored, as bytes. */
export function fromHex(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text.replaceAll(/\s/g, ''), 'hex'));
}

export function concatenate(...parts: readonly Uint8Array[]): Uint8Array {
  return Uint8Array.from(Buffer.concat(parts));
}

/** What `write` writes. */
export function written(write: (writer: ByteWriter) => void): Uint8Array {
  const writer = new ByteWriter(new Uint8Array(64 * 1024));
  write(writer);
  return writer.subarray();
}

export function examplePage(seed: number): Uint8Array {
  return Uint8Array.from({ length: TARGET_PAGE_BYTES }, (_, index) => (index * 7 + seed) & 0xff);
}

export const fileHeader = written((writer) => writeFileHeader(writer, EXAMPLE_MACHINE_TYPE));

/** START of RAM with what its body begins with, up to and without EOS. */
export function ramStart({ withHostPageSize }: { withHostPageSize: boolean }): Uint8Array {
  return written((writer) => {
    writeSectionStart(writer, SectionType.START, RAM_SECTION_ID, RAM_IDSTR, 0, RAM_VERSION_ID);
    writeMemSize(writer, EXAMPLE_BLOCKS, { withHostPageSize });
  });
}

export const ramEosAndFooter = written((writer) => {
  writeRamEos(writer);
  writeSectionFooter(writer, RAM_SECTION_ID);
});

export const ramPart = written((writer) =>
  writeSectionContinuation(writer, SectionType.PART, RAM_SECTION_ID),
);

export const ramEnd = concatenate(
  written((writer) => writeSectionContinuation(writer, SectionType.END, RAM_SECTION_ID)),
  ramEosAndFooter,
);

export const pages = concatenate(
  written((writer) => {
    writePageHeader(writer, 0x1000, RamSaveFlag.PAGE, 'pc.ram');
    writer.bytes(examplePage(1));
    writeZeroPage(writer, 0x2000, null);
    writePageHeader(writer, 0x7000, RamSaveFlag.PAGE, null);
    writer.bytes(examplePage(2));
    writeZeroPage(writer, 0x1f_f000, 'huge');
    writePageHeader(writer, 0, RamSaveFlag.PAGE, null);
    writer.bytes(examplePage(3));
  }),
);

export const deviceSections = concatenate(
  writeDeviceSection({
    sectionId: 7,
    idstr: 'example',
    instanceId: 0,
    versionId: 1,
    body: encodeLengthPrefixed(Uint8Array.of(1, 2, 3)),
  }),
  writeDeviceSection({
    sectionId: 8,
    idstr: 'globalstate',
    instanceId: 0,
    versionId: 1,
    body: encodeGlobalState('running'),
  }),
);

export const eof = written(writeEof);

/** Everything of a precopy up to EOF. */
export const precopyStream = concatenate(
  fileHeader,
  encodeCommand(MigrationCommand.OPEN_RETURN_PATH),
  encodePing(1),
  ramStart({ withHostPageSize: false }),
  ramEosAndFooter,
  ramPart,
  pages,
  ramEosAndFooter,
  ramPart,
  written((writer) => writeZeroPage(writer, 0x1000, null)), // CONTINUE across sections
  ramEosAndFooter,
  ramEnd,
  deviceSections,
  eof,
);

export const packageBytes = concatenate(
  encodeCommand(MigrationCommand.POSTCOPY_LISTEN),
  deviceSections,
  encodePing(3),
  encodeCommand(MigrationCommand.POSTCOPY_RUN),
);

export const advise = encodeAdvise(0x201000, TARGET_PAGE_BYTES);

export const postcopyStream = concatenate(
  fileHeader,
  encodeCommand(MigrationCommand.OPEN_RETURN_PATH),
  advise,
  ramStart({ withHostPageSize: true }),
  ramEosAndFooter,
  ramPart,
  pages,
  ramEosAndFooter,
  ...encodeDiscards('pc.ram', [{ start: 0x1000, lengthBytes: 0x3000 }]),
  encodePing(2),
  encodePackagedHeader(packageBytes.length),
  packageBytes,
  encodePing(4),
  ramPart,
  pages,
  ramEosAndFooter,
  ramEnd,
  eof,
);

/** Records each call as an array of its name and arguments; of a page its content. */
export class RecordingHandler implements StreamHandler {
  readonly calls: unknown[][] = [];
  readonly #buffer: Uint8Array;

  constructor(buffer: Uint8Array) {
    this.#buffer = buffer;
  }

  configuration(...args: unknown[]): void {
    this.calls.push(['configuration', ...args]);
  }
  sectionStart(...args: unknown[]): void {
    this.calls.push(['sectionStart', ...args]);
  }
  sectionEnd(...args: unknown[]): void {
    this.calls.push(['sectionEnd', ...args]);
  }
  ramBlocks(blocks: unknown): void {
    this.calls.push(['ramBlocks', blocks]);
  }
  page(blockIndex: number, offset: number, position: number): void {
    const content = this.#buffer.slice(position, position + TARGET_PAGE_BYTES);
    this.calls.push(['page', blockIndex, offset, content]);
  }
  zeroPage(blockIndex: number, offset: number): void {
    this.calls.push(['zeroPage', blockIndex, offset]);
  }
  ramSectionEnd(): void {
    this.calls.push(['ramSectionEnd']);
  }
  device(...args: unknown[]): void {
    this.calls.push(['device', ...args]);
  }
  command(...args: unknown[]): void {
    this.calls.push(['command', ...args]);
  }
  eof(): void {
    this.calls.push(['eof']);
  }
  vmDescription(...args: unknown[]): void {
    this.calls.push(['vmDescription', ...args]);
  }
}

/** A decoder of the example machine, and the handler that records what it decodes. */
export function recordingDecoder(options: Partial<StreamDecoderOptions> = {}): {
  decoder: StreamDecoder;
  handler: RecordingHandler;
} {
  const buffer = options.buffer ?? new Uint8Array(MIN_STREAM_BUFFER_BYTES);
  const handler = new RecordingHandler(buffer);
  const decoder = new StreamDecoder({
    machineType: EXAMPLE_MACHINE_TYPE,
    blocks: EXAMPLE_BLOCKS,
    devices: EXAMPLE_DEVICES,
    ...options,
    buffer,
    handler,
  });
  return { decoder, handler };
}

/** Puts all of `bytes` through the decoder, in as many pieces as its buffer asks for. */
export function feed(decoder: StreamDecoder, bytes: Uint8Array): void {
  let position = 0;
  while (position < bytes.length) {
    const free = decoder.free();
    const some = bytes.subarray(position, position + free.length);
    free.set(some);
    decoder.commit(some.length);
    decoder.run();
    position += some.length;
  }
}
