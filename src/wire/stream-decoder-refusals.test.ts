import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodeCommand, encodeDiscards, encodePing, MigrationCommand } from './commands.ts';
import {
  advise,
  concatenate,
  deviceSections,
  eof,
  feed,
  fileHeader,
  fromHex,
  packageBytes,
  pages,
  postcopyStream,
  precopyStream,
  ramEnd,
  ramEosAndFooter,
  ramPart,
  ramStart,
  recordingDecoder,
  written,
} from './example-stream.ts';
import { writeFileHeader } from './sections.ts';
import type { StreamErrorCode } from './stream-error.ts';

const NOTHING = new Uint8Array(0);
const ramHeader = fromHex('01 00000002 03 72616d 00000000 00000004');
const ramStarted = concatenate(fileHeader, ramStart({ withHostPageSize: false }), ramEosAndFooter);
const inPart = concatenate(ramStarted, ramPart);
const advised = concatenate(fileHeader, advise, ramStart({ withHostPageSize: true }), ramEosAndFooter);
const ramEnded = concatenate(ramStarted, ramEnd);
const afterPackage = postcopyStream.subarray(0, postcopyStream.length - 1 - ramEnd.length);

/** After `before`, the bytes of `refused` are refused at `at` (from the first of them) although more may follow. */
interface Refusal {
  readonly what: string;
  readonly before: Uint8Array;
  readonly refused: Uint8Array | string;
  readonly code: StreamErrorCode;
  readonly at?: number;
  readonly message?: RegExp;
}

const named = (machineType: string) => written((writer) => writeFileHeader(writer, machineType));
const subsection = (name: string) =>
  concatenate(Uint8Array.of(5, name.length), Buffer.from(name), fromHex('00000001'));

const REFUSALS: readonly Refusal[] = [
  // File header and configuration
  {
    what: 'another protocol at its first byte',
    before: NOTHING,
    refused: '47',
    code: 'BAD_MAGIC',
    message: /^Not a migration stream: byte must be 0x51, got 0x47 \(stream byte 0\)$/,
  },
  {
    what: 'a magic whose last byte is wrong',
    before: NOTHING,
    refused: '5145564e',
    code: 'BAD_MAGIC',
    at: 3,
  },
  { what: 'version 2', before: NOTHING, refused: '5145564d00000002', code: 'BAD_VERSION', at: 7 },
  {
    what: 'a stream without configuration',
    before: NOTHING,
    refused: '5145564d0000000301',
    code: 'BAD_SECTION',
    at: 8,
  },
  {
    what: 'an empty machine type',
    before: NOTHING,
    refused: '5145564d0000000307 00000000',
    code: 'BAD_LENGTH',
    at: 9,
  },
  {
    what: 'a machine type above the limit',
    before: NOTHING,
    refused: '5145564d0000000307 00000401',
    code: 'LIMIT',
    at: 9,
  },
  {
    what: 'another machine type',
    before: NOTHING,
    refused: named('pc-i440fx-7.2'),
    code: 'BAD_MACHINE_TYPE',
    at: 13,
    message: /^Machine type received is 'pc-i440fx-7.2' and local is 'example-1' \(/,
  },
  {
    what: 'a machine type that ours begins with',
    before: NOTHING,
    refused: named('example'),
    code: 'BAD_MACHINE_TYPE',
    at: 13,
  },
  { what: 'an unknown subsection', before: fileHeader, refused: '05 01 61', code: 'BAD_SECTION' },
  {
    what: 'a subsection that comes twice',
    before: concatenate(fileHeader, subsection('configuration/uuid'), new Uint8Array(16)),
    refused: subsection('configuration/uuid'),
    code: 'BAD_SECTION',
  },
  {
    what: 'a capability of the source alone',
    before: NOTHING,
    refused: written((writer) => writeFileHeader(writer, 'example-1', ['x-ignore-shared'])),
    code: 'UNSUPPORTED',
    at: fileHeader.length + 28 + 4 + 4 + 1,
    message: /'x-ignore-shared'/,
  },
  {
    what: 'a subsection of version 2',
    before: fileHeader,
    refused: concatenate(
      Uint8Array.of(5, 18),
      Buffer.from('configuration/uuid'),
      fromHex(`00000002 ${'00'.repeat(16)}`),
    ),
    code: 'BAD_VERSION',
    at: 20,
  },
  {
    what: 'another target page size',
    before: fileHeader,
    refused: concatenate(subsection('configuration/target-page-bits'), fromHex('00000010')),
    code: 'UNSUPPORTED',
    at: 36,
  },

  // Sections
  { what: 'an unknown section type', before: fileHeader, refused: '09', code: 'BAD_SECTION' },
  { what: 'a second configuration', before: fileHeader, refused: '07', code: 'BAD_SECTION' },
  { what: 'a VM description before EOF', before: fileHeader, refused: '06', code: 'BAD_SECTION' },
  {
    what: 'a section without a name',
    before: fileHeader,
    refused: '01 00000002 00',
    code: 'BAD_LENGTH',
    at: 5,
  },
  {
    what: 'an unknown section',
    before: fileHeader,
    refused: '01 00000003 04 76666969 00000002 00000001',
    code: 'BAD_SECTION',
    message: /Unknown savevm section or instance 'vfii' 2\. Make sure that your current VM setup matches/,
  },
  {
    what: 'RAM of another instance',
    before: fileHeader,
    refused: '01 00000002 03 72616d 00000001 00000004',
    code: 'BAD_SECTION',
  },
  {
    what: 'RAM of version 5',
    before: fileHeader,
    refused: '01 00000002 03 72616d 00000000 00000005',
    code: 'BAD_VERSION',
  },
  {
    what: 'RAM as a FULL section',
    before: fileHeader,
    refused: '04 00000002 03 72616d 00000000 00000004',
    code: 'BAD_SECTION',
  },
  { what: 'a second START', before: ramStarted, refused: '01', code: 'BAD_SECTION' },
  {
    what: 'a PART before START',
    before: fileHeader,
    refused: '02 00000002',
    code: 'BAD_SECTION',
    message: /Unknown savevm section 2/,
  },
  {
    what: 'a PART of another section',
    before: ramStarted,
    refused: '02 00000007',
    code: 'BAD_SECTION',
    message: /Unknown savevm section 7/,
  },
  { what: 'a PART after the END', before: ramEnded, refused: ramPart, code: 'BAD_SECTION' },
  { what: 'EOF before the END', before: ramStarted, refused: '00', code: 'BAD_SECTION' },
  {
    what: 'a missing footer at its first byte',
    before: concatenate(inPart, fromHex('0000000000000010')),
    refused: '02',
    code: 'BAD_FOOTER',
  },
  {
    what: 'a footer with another id',
    before: concatenate(inPart, fromHex('0000000000000010')),
    refused: '7e 00000003',
    code: 'BAD_FOOTER',
    message: /must have id 2, got 3/,
  },
  {
    what: 'anything but a VM description after EOF',
    before: precopyStream,
    refused: '01',
    code: 'BAD_SECTION',
  },
  { what: 'a VM description above the limit', before: precopyStream, refused: '06 04000001', code: 'LIMIT' },
  {
    what: 'bytes after the VM description',
    before: concatenate(precopyStream, fromHex('06 00000002 7b7d')),
    refused: '00',
    code: 'BAD_LENGTH',
  },
  { what: 'bytes after the EOF of a postcopy', before: postcopyStream, refused: '06', code: 'BAD_LENGTH' },

  // Devices
  {
    what: 'a device of a newer version',
    before: ramEnded,
    refused: '04 00000007 07 6578616d706c65 00000000 00000002',
    code: 'BAD_VERSION',
    message: /'example' must be at most 1, got 2/,
  },
  {
    what: 'a device of another instance',
    before: ramEnded,
    refused: '04 00000007 07 6578616d706c65 00000001 00000001',
    code: 'BAD_SECTION',
  },
  {
    what: 'a device that comes twice',
    before: concatenate(ramEnded, deviceSections),
    refused: '04 00000007 07 6578616d706c65 00000000 00000001',
    code: 'BAD_SECTION',
  },
  {
    what: 'a device state above the limit',
    before: concatenate(ramEnded, fromHex('04 00000007 07 6578616d706c65 00000000 00000001')),
    refused: '00001001',
    code: 'LIMIT',
  },
  {
    what: 'a device state longer than it says',
    before: concatenate(ramEnded, fromHex('04 00000007 07 6578616d706c65 00000000 00000001')),
    refused: '00000001 00 00',
    code: 'BAD_FOOTER',
    at: 5,
  },
  { what: 'a device after the package', before: afterPackage, refused: '04', code: 'BAD_SECTION' },

  // RAM records
  {
    what: 'a START without blocks',
    before: concatenate(fileHeader, ramHeader),
    refused: '0000000000000010',
    code: 'BAD_FLAGS',
  },
  {
    what: 'a page before the blocks',
    before: concatenate(fileHeader, ramHeader),
    refused: '0000000000000008',
    code: 'BAD_FLAGS',
  },
  { what: 'blocks announced in a PART', before: inPart, refused: '0000000000208004', code: 'BAD_FLAGS' },
  {
    what: 'blocks announced twice',
    before: concatenate(fileHeader, ramStart({ withHostPageSize: false })),
    refused: '0000000000208004',
    code: 'BAD_FLAGS',
  },
  {
    what: 'a total beyond 2^53',
    before: concatenate(fileHeader, ramHeader),
    refused: 'fff0000000000004',
    code: 'OUT_OF_RANGE',
  },
  {
    what: 'an unknown block',
    before: concatenate(fileHeader, ramHeader, fromHex('0000000000208004')),
    refused: '02 6d30',
    code: 'UNKNOWN_BLOCK',
    at: 1,
    message: /Unknown ramblock "m0", cannot accept migration/,
  },
  {
    what: 'a block with an empty name',
    before: concatenate(fileHeader, ramHeader, fromHex('0000000000208004')),
    refused: '00',
    code: 'BAD_LENGTH',
  },
  {
    what: 'a block of another length',
    before: concatenate(fileHeader, ramHeader, fromHex('0000000000208004')),
    refused: '06 70632e72616d 0000000000009000',
    code: 'BAD_LENGTH',
    at: 7,
    message: /"pc\.ram" must be 32768 bytes as it is here, got 36864/,
  },
  {
    what: 'a block announced twice',
    before: concatenate(fileHeader, ramHeader, fromHex('0000000000208004 06 70632e72616d 0000000000008000')),
    refused: '06 70632e72616d',
    code: 'BAD_VALUE',
  },
  {
    what: 'blocks longer than their total',
    before: concatenate(fileHeader, ramHeader, fromHex('0000000000009004 06 70632e72616d 0000000000008000')),
    refused: '04 68756765 0000000000200000',
    code: 'BAD_LENGTH',
    at: 5,
  },
  {
    what: 'a missing block',
    before: concatenate(fileHeader, ramHeader, fromHex('0000000000008004')),
    refused: '06 70632e72616d 0000000000008000',
    code: 'BAD_LENGTH',
    at: 15,
    message: /must be 2129920 bytes as it is here, got 32768 without "huge"/,
  },
  {
    what: 'no blocks',
    before: concatenate(fileHeader, ramHeader),
    refused: '0000000000000004',
    code: 'BAD_LENGTH',
    at: 8,
  },
  {
    what: 'another host page size',
    before: concatenate(fileHeader, advise, ramHeader, fromHex('0000000000208004')),
    refused: '04 68756765 0000000000200000 0000000000001000',
    code: 'BAD_VALUE',
    at: 13,
  },
  {
    what: 'flags of 0',
    before: inPart,
    refused: '0000000000000000',
    code: 'BAD_FLAGS',
    message: /Unknown combination of migration flags: 0x0 /,
  },
  { what: 'CONTINUE alone', before: inPart, refused: '0000000000000020', code: 'BAD_FLAGS' },
  { what: 'PAGE and ZERO together', before: inPart, refused: '000000000000000a', code: 'BAD_FLAGS' },
  { what: 'an unknown flag beside PAGE', before: inPart, refused: '0000000000000408', code: 'BAD_FLAGS' },
  { what: 'the obsolete flag', before: inPart, refused: '0000000000000001', code: 'BAD_FLAGS' },
  { what: 'EOS with an offset', before: inPart, refused: '0000000000001010', code: 'BAD_FLAGS' },
  { what: 'EOS with CONTINUE', before: inPart, refused: '0000000000000030', code: 'BAD_FLAGS' },
  {
    what: 'CONTINUE before any block',
    before: inPart,
    refused: '0000000000000028',
    code: 'BAD_FLAGS',
    message: /CONTINUE before any block was named/,
  },
  { what: 'XBZRLE', before: inPart, refused: '0000000000000040', code: 'UNSUPPORTED', message: /xbzrle/ },
  {
    what: 'a compressed page',
    before: concatenate(inPart, pages),
    refused: '0000000000000120',
    code: 'UNSUPPORTED',
    message: /compress/,
  },
  {
    what: 'a multifd flush',
    before: inPart,
    refused: '0000000000000200',
    code: 'UNSUPPORTED',
    message: /multifd/,
  },
  { what: 'a hook', before: inPart, refused: '0000000000000080', code: 'UNSUPPORTED' },
  {
    what: 'a page of an unknown block',
    before: inPart,
    refused: '0000000000000008 02 6d30',
    code: 'UNKNOWN_BLOCK',
    at: 9,
  },
  {
    what: 'a page of a block with an unprintable name',
    before: inPart,
    refused: '0000000000000008 02 0a5c',
    code: 'UNKNOWN_BLOCK',
    at: 9,
    message: /"\\x0a\\x5c"/,
  },
  {
    what: 'a page beyond its block',
    before: inPart,
    refused: '0000000000008008 06 70632e72616d',
    code: 'OUT_OF_RANGE',
    message: /must be below 0x8000 in "pc\.ram", got 0x8000/,
  },
  {
    what: 'a page far beyond its block',
    before: concatenate(inPart, pages),
    refused: 'fffffffffffff028',
    code: 'OUT_OF_RANGE',
    message: /got 0xfffffffffffff000/,
  },
  {
    what: 'a zero page that is not zero',
    before: concatenate(inPart, pages),
    refused: '0000000000000022 01',
    code: 'BAD_VALUE',
    at: 8,
  },

  // Commands
  {
    what: 'an unknown command',
    before: fileHeader,
    refused: '08 000c 0001',
    code: 'BAD_COMMAND',
    message: /MIG_CMD 0xc unknown \(len 0x1\)/,
  },
  {
    what: 'command 0',
    before: fileHeader,
    refused: '08 0000 0004',
    code: 'BAD_COMMAND',
    message: /MIG_CMD 0x0 unknown \(len 0x4\)/,
  },
  {
    what: 'a PING of 5 bytes before they come',
    before: fileHeader,
    refused: '08 0002 0005',
    code: 'BAD_LENGTH',
    at: 3,
  },
  { what: 'a command above the limit', before: fileHeader, refused: '08 0006 2001', code: 'LIMIT', at: 3 },
  { what: 'LISTEN outside a package', before: advised, refused: '08 0004 0000', code: 'BAD_COMMAND' },
  { what: 'RUN outside a package', before: advised, refused: '08 0005 0000', code: 'BAD_COMMAND' },
  { what: 'COLO', before: fileHeader, refused: '08 0008 0000', code: 'UNSUPPORTED' },
  { what: 'postcopy of dirty bitmaps', before: fileHeader, refused: '08 0003 0000', code: 'UNSUPPORTED' },
  {
    what: 'POSTCOPY_ADVISE after the START of RAM',
    before: ramStarted,
    refused: advise,
    code: 'BAD_COMMAND',
  },
  {
    what: 'POSTCOPY_ADVISE twice',
    before: concatenate(fileHeader, advise),
    refused: advise,
    code: 'BAD_COMMAND',
  },
  {
    what: 'a discard without advice',
    before: ramStarted,
    refused: encodeDiscards('pc.ram', [{ start: 0, lengthBytes: 4096 }])[0]!,
    code: 'BAD_COMMAND',
  },
  {
    what: 'a discard in an unknown block',
    before: advised,
    refused: encodeDiscards('m0', [{ start: 0, lengthBytes: 4096 }])[0]!,
    code: 'UNKNOWN_BLOCK',
    at: 6,
  },
  {
    what: 'a discard beyond its block',
    before: advised,
    refused: encodeDiscards('pc.ram', [
      { start: 0, lengthBytes: 4096 },
      { start: 0x7000, lengthBytes: 0x2000 },
    ])[0]!,
    code: 'OUT_OF_RANGE',
    at: 5 + 9 + 16,
  },
  {
    what: 'a discard of part of a host page',
    before: advised,
    refused: encodeDiscards('huge', [{ start: 0, lengthBytes: 4096 }])[0]!,
    code: 'OUT_OF_RANGE',
    at: 5 + 7,
  },
  {
    what: 'a discard of nothing',
    before: advised,
    refused: encodeDiscards('pc.ram', [{ start: 0, lengthBytes: 0 }])[0]!,
    code: 'OUT_OF_RANGE',
    at: 5 + 9,
  },
  {
    what: 'a discard after the package',
    before: afterPackage,
    refused: encodeDiscards('pc.ram', [{ start: 0, lengthBytes: 4096 }])[0]!,
    code: 'BAD_COMMAND',
  },
  {
    what: 'a package without advice',
    before: ramStarted,
    refused: '08 0007 0004 00000010',
    code: 'BAD_COMMAND',
  },
  {
    what: 'a package before RAM',
    before: concatenate(fileHeader, advise),
    refused: '08 0007 0004 00000010',
    code: 'BAD_COMMAND',
  },
  { what: 'a second package', before: afterPackage, refused: '08 0007 0004 00000010', code: 'BAD_COMMAND' },
  { what: 'an empty package', before: advised, refused: '08 0007 0004 00000000', code: 'BAD_LENGTH', at: 5 },
  {
    what: 'a package above the limit',
    before: advised,
    refused: '08 0007 0004 04000001',
    code: 'LIMIT',
    at: 5,
    message: /at most 67108864 bytes, got 67108865/,
  },
  {
    what: 'RECV_BITMAP in a stream that is not recovered',
    before: advised,
    refused: '08 000a 0002 01 61',
    code: 'BAD_COMMAND',
  },
];

for (const { what, before, refused, code, at = 0, message } of REFUSALS) {
  test(`StreamDecoder refuses ${what}`, () => {
    const { decoder } = recordingDecoder();
    feed(decoder, before);
    assert.throws(() => feed(decoder, typeof refused === 'string' ? fromHex(refused) : refused), {
      name: 'StreamError',
      code,
      at: before.length + at,
      ...(message === undefined ? {} : { message }),
    });
  });
}

function decodePackage(bytes: Uint8Array): void {
  const { decoder } = recordingDecoder({ buffer: bytes.slice(), embedded: true });
  decoder.commit(bytes.length);
  decoder.run();
  decoder.end();
}

const listen = encodeCommand(MigrationCommand.POSTCOPY_LISTEN);

for (const { what, bytes, code, at } of [
  { what: 'that begins as a stream does', bytes: fileHeader, code: 'BAD_SECTION', at: 0 },
  { what: 'with RAM', bytes: concatenate(listen, ramHeader), code: 'BAD_SECTION', at: 5 },
  { what: 'with EOF', bytes: concatenate(listen, eof), code: 'BAD_SECTION', at: 5 },
  { what: 'with another command', bytes: concatenate(listen, advise), code: 'BAD_COMMAND', at: 5 },
  { what: 'in a package', bytes: fromHex('08 0007 0004 00000001 00'), code: 'BAD_COMMAND', at: 0 },
  {
    what: 'with an unknown device',
    bytes: fromHex('04 00000001 01 61 00000000 00000001'),
    code: 'BAD_SECTION',
    at: 0,
  },
  {
    what: 'that is cut in a ping',
    bytes: concatenate(listen, encodePing(3).subarray(0, 7)),
    code: 'TRUNCATED',
    at: 12,
  },
  { what: 'that is cut', bytes: packageBytes.subarray(0, 30), code: 'TRUNCATED', at: 30 },
  {
    what: 'with bytes after RUN',
    bytes: concatenate(packageBytes, eof),
    code: 'BAD_LENGTH',
    at: packageBytes.length,
  },
  { what: 'with a malformed command', bytes: fromHex('08 0002 0003'), code: 'BAD_LENGTH', at: 3 },
] as const) {
  test(`StreamDecoder refuses a package ${what}`, () => {
    assert.throws(() => decodePackage(bytes), {
      name: 'StreamError',
      code,
      at,
      message: /\(package byte \d+\)$/,
    });
  });
}

test('StreamDecoder refuses sections and commands of a first connection in a recovered stream', () => {
  for (const bytes of [advise, fileHeader, deviceSections, ramHeader, fromHex('08 0007 0004 00000010')]) {
    const { decoder } = recordingDecoder({ resumed: { ramSectionId: 2 } });
    assert.throws(() => feed(decoder, bytes), { name: 'StreamError', at: 0 });
  }
  const { decoder } = recordingDecoder({ resumed: { ramSectionId: 2 } });
  assert.throws(() => feed(decoder, fromHex('08 000a 0002 01 61')), { code: 'UNKNOWN_BLOCK', at: 5 });
});
