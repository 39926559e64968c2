import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  encodeAdvise,
  encodeCommand,
  encodePackagedHeader,
  encodePing,
  MigrationCommand,
} from './commands.ts';
import {
  advise,
  concatenate,
  deviceSections,
  EXAMPLE_BLOCKS,
  EXAMPLE_MACHINE_TYPE,
  eof,
  examplePage,
  fileHeader,
  fromHex,
  packageBytes,
  pages,
  postcopyStream,
  precopyStream,
  RAM_SECTION_ID,
  ramEnd,
  ramEosAndFooter,
  ramPart,
  ramStart,
  written,
} from './example-stream.ts';
import { writeMappedRamHeader } from './mapped-ram.ts';
import { OpenStreamDecoder, type OpenStreamDecoderOptions } from './open-stream-decoder.ts';
import { RamSaveFlag, writePageHeader } from './ram-record.ts';
import { RecordingOpenHandler } from './recording-open-handler.ts';
import { SectionType, writeFileHeader, writeSectionStart } from './sections.ts';
import { MIN_STREAM_BUFFER_BYTES } from './stream-decoder.ts';

function openDecoder(options: Partial<OpenStreamDecoderOptions> = {}) {
  const buffer = new Uint8Array(MIN_STREAM_BUFFER_BYTES);
  const handler = new RecordingOpenHandler(buffer);
  return { decoder: new OpenStreamDecoder({ ...options, buffer, handler }), handler };
}

function feed(decoder: OpenStreamDecoder, bytes: Uint8Array): void {
  for (let position = 0; position < bytes.length; ) {
    const free = decoder.free();
    const some = bytes.subarray(position, position + free.length);
    free.set(some);
    decoder.commit(some.length);
    decoder.run();
    position += some.length;
  }
}

function decode(bytes: Uint8Array, options: Partial<OpenStreamDecoderOptions> = {}): unknown[][] {
  const { decoder, handler } = openDecoder(options);
  feed(decoder, bytes);
  return handler.calls;
}

/** The name of each call, runs of the same folded, without stream bytes. */
const names = (calls: readonly unknown[][]) =>
  calls.map(([name]) => String(name)).filter((name, index, all) => name !== all[index - 1]);

const call = (calls: readonly unknown[][], name: string) => calls.filter(([each]) => each === name);

const header = (...capabilities: string[]) =>
  written((writer) => writeFileHeader(writer, 'pc-i440fx-9.9', capabilities));

const startHeader = written((writer) => writeSectionStart(writer, SectionType.START, 2, 'ram', 0, 4));

test('OpenStreamDecoder tells a precopy of any machine, with the stream byte of everything', () => {
  const calls = decode(precopyStream);
  const start = 13 + EXAMPLE_MACHINE_TYPE.length + 5 + 9;
  const memSizeAt = start + 17;
  const startEnd = memSizeAt + 8 + (7 + 8) + (5 + 8) + 8 + 5;
  const page1At = startEnd + 5 + 8 + 7;
  const partEnd = startEnd + 5 + pages.length + 13;
  const secondPartEnd = partEnd + 5 + 9 + 13;
  const tailAt = secondPartEnd + 18;
  assert.deepEqual(calls, [
    ['configuration', { machineType: EXAMPLE_MACHINE_TYPE, uuid: undefined, capabilities: [] }, 0],
    ['command', { type: 'open-return-path' }, start - 14],
    ['command', { type: 'ping', value: 1 }, start - 9],
    ['sectionStart', 'start', RAM_SECTION_ID, start],
    ['ramBlocks', EXAMPLE_BLOCKS.map((block) => ({ ...block, pageSizeBytes: 4096 })), memSizeAt],
    ['ramSectionEnd', startEnd - 13],
    ['sectionEnd', 'start', RAM_SECTION_ID, startEnd],
    ['sectionStart', 'part', RAM_SECTION_ID, startEnd],
    ['page', 0, 0x1000, examplePage(1), page1At],
    ['zeroPage', 0, 0x2000, page1At + 4096],
    ['page', 0, 0x7000, examplePage(2), page1At + 4096 + 9 + 8],
    ['zeroPage', 1, 0x1f_f000, page1At + 2 * 4096 + 17],
    ['page', 1, 0, examplePage(3), partEnd - 13 - 4096],
    ['ramSectionEnd', partEnd - 13],
    ['sectionEnd', 'part', RAM_SECTION_ID, partEnd],
    ['sectionStart', 'part', RAM_SECTION_ID, partEnd],
    ['zeroPage', 1, 0x1000, partEnd + 5],
    ['ramSectionEnd', secondPartEnd - 13],
    ['sectionEnd', 'part', RAM_SECTION_ID, secondPartEnd],
    ['sectionStart', 'end', RAM_SECTION_ID, secondPartEnd],
    ['ramSectionEnd', tailAt - 13],
    ['sectionEnd', 'end', RAM_SECTION_ID, tailAt],
    ['tailBytes', concatenate(deviceSections, eof), tailAt],
  ]);
});

test('OpenStreamDecoder takes the devices of a background snapshot, whose RAM has no END', () => {
  const begun = concatenate(fileHeader, ramStart({ withHostPageSize: false }), ramEosAndFooter);
  const calls = decode(concatenate(begun, ramPart, pages, ramEosAndFooter, deviceSections, eof));
  const tailAt = begun.length + 5 + pages.length + 13;
  assert.deepEqual(calls.slice(-2), [
    ['sectionEnd', 'part', RAM_SECTION_ID, tailAt],
    ['tailBytes', concatenate(deviceSections, eof), tailAt],
  ]);
});

test('OpenStreamDecoder tells a postcopy, the package as bytes, and learns large pages', () => {
  const { decoder, handler } = openDecoder();
  feed(decoder, postcopyStream);
  const { calls } = handler;
  assert.deepEqual(call(calls, 'ramBlocks')[0]![1], EXAMPLE_BLOCKS);
  assert.deepEqual(call(calls, 'packageBytes')[0]![1], packageBytes);
  assert.deepEqual(
    call(calls, 'command').map(([, command]) => (command as { type: string }).type),
    ['open-return-path', 'postcopy-advise', 'postcopy-ram-discard', 'ping', 'packaged-header', 'ping'],
  );
  assert.deepEqual(calls.at(-1), ['eof', postcopyStream.length - 1]);
  assert.equal(decoder.ended, true);
  assert.equal(decoder.isPostcopy, true);
  decoder.end();
});

test('OpenStreamDecoder tells the capabilities that change the stream, and reads it as they say', () => {
  const uuid = concatenate(
    Uint8Array.of(5, 18),
    Buffer.from('configuration/uuid'),
    fromHex(`00000001 ${'0f'.repeat(16)}`),
  );
  const memSize = concatenate(
    fromHex('0000000000003004'),
    fromHex('01 61 0000000000002000 0000000100000000'),
    fromHex('01 62 0000000000001000 0000000000000000'),
  );
  const calls = decode(concatenate(header('x-ignore-shared'), uuid, startHeader, memSize, ramEosAndFooter));
  assert.deepEqual(calls[0]![1], {
    machineType: 'pc-i440fx-9.9',
    uuid: new Uint8Array(16).fill(0x0f),
    capabilities: ['x-ignore-shared'],
  });
  assert.deepEqual(call(calls, 'ramBlocks')[0]![1], [
    { idstr: 'a', lengthBytes: 0x2000, pageSizeBytes: 4096, gpa: 0x1_0000_0000n },
    { idstr: 'b', lengthBytes: 0x1000, pageSizeBytes: 4096, gpa: 0n },
  ]);
});

const MAPPED = { bitmapOffset: 0, pagesOffset: 0x1000 };

function mappedStream(ignoresShared: boolean): Uint8Array {
  const begin = concatenate(
    header(...(ignoresShared ? ['x-ignore-shared', 'mapped-ram'] : ['mapped-ram'])),
    startHeader,
    fromHex('0000000000003004 01 61 0000000000002000'),
    ignoresShared ? fromHex('0000000000100000') : new Uint8Array(0),
  );
  const bitmapOffset = begin.length + 28;
  const first = concatenate(
    begin,
    written((writer) => writeMappedRamHeader(writer, { ...MAPPED, bitmapOffset })),
  );
  const area = new Uint8Array(0x3000 - first.length).fill(0x04);
  const second = concatenate(
    fromHex('01 62 0000000000001000'),
    ignoresShared ? fromHex('0000000000000000') : new Uint8Array(0),
    written((writer) =>
      writeMappedRamHeader(
        writer,
        ignoresShared ? { bitmapOffset: 0, pagesOffset: 0 } : { bitmapOffset: 0x3100, pagesOffset: 0x4000 },
      ),
    ),
  );
  const secondArea = ignoresShared ? 0 : 0x5000 - 0x3000 - second.length;
  return concatenate(
    first,
    area,
    second,
    new Uint8Array(secondArea),
    ramEosAndFooter,
    ramEnd,
    deviceSections,
  );
}

test('OpenStreamDecoder passes over the pages of mapped-ram, and tells where they are', () => {
  const calls = decode(mappedStream(false));
  const bitmapOffset = 13 + 13 + 1 + 1 + 26 + 8 + 11 + startHeader.length + 18 + 28;
  assert.deepEqual(call(calls, 'ramBlocks')[0]![1], [
    { idstr: 'a', lengthBytes: 0x2000, pageSizeBytes: 4096, mapped: { bitmapOffset, pagesOffset: 0x1000 } },
    {
      idstr: 'b',
      lengthBytes: 0x1000,
      pageSizeBytes: 4096,
      mapped: { bitmapOffset: 0x3100, pagesOffset: 0x4000 },
    },
  ]);
  assert.deepEqual(call(calls, 'tailBytes')[0]![1], deviceSections);
});

test('OpenStreamDecoder knows that a shared block has no place in a mapped-ram file', () => {
  const calls = decode(mappedStream(true));
  const [a, b] = call(calls, 'ramBlocks')[0]![1] as { gpa: bigint; mapped?: object }[];
  assert.equal(a?.gpa, 0x100000n);
  assert.notEqual(a?.mapped, undefined);
  assert.equal(b?.mapped, undefined);
  assert.deepEqual(call(calls, 'tailBytes')[0]![1], deviceSections);
});

test('OpenStreamDecoder.skip() leaves out the pages of mapped-ram, at any place of the stream in its file', () => {
  const stream = mappedStream(false);
  const { decoder, handler } = openDecoder();
  let position = 0;
  let skippedBytes = 0;
  while (position < stream.length) {
    const skippable = decoder.skippableBytes;
    if (skippable > 0) {
      decoder.skip(skippable);
      decoder.run();
      position += skippable;
      skippedBytes += skippable;
      continue;
    }
    feed(decoder, stream.subarray(position, position + 64));
    position += Math.min(64, stream.length - position);
  }
  assert(skippedBytes > 0x3000);
  assert.deepEqual(handler.calls, decode(stream));

  const elsewhere = stream.slice();
  const firstHeader = Buffer.from(elsewhere.buffer).indexOf(fromHex('00000001 0000000000001000'));
  elsewhere.set(fromHex('0000000000009000'), firstHeader + 12); // bitmap
  elsewhere.set(fromHex('000000000000a000'), firstHeader + 20); // pages
  assert.throws(() => decode(elsewhere, { fileOffset: 0x100000 }), { code: 'OUT_OF_RANGE' });
});

test('OpenStreamDecoder tells deltas and multifd flushes', () => {
  const delta = fromHex('00 01 aa');
  const record = concatenate(
    written((writer) => writePageHeader(writer, 0x3000 + 0x40 - 8, RamSaveFlag.PAGE, 'pc.ram')),
    fromHex('01 0003'),
    delta,
  );
  const flush = fromHex('0000000000000200');
  const calls = decode(
    concatenate(
      fileHeader,
      ramStart({ withHostPageSize: false }),
      flush,
      ramEosAndFooter,
      ramPart,
      record,
      record,
    ),
  );
  assert.deepEqual(
    call(calls, 'xbzrlePage').map((each) => each.slice(0, 4)),
    [
      ['xbzrlePage', 0, 0x3000, delta],
      ['xbzrlePage', 0, 0x3000, delta],
    ],
  );
  assert.equal(call(calls, 'multifdFlush').length, 1);
});

test('OpenStreamDecoder tells commands of newer and of unusual sources', () => {
  const calls = decode(
    concatenate(
      fileHeader,
      encodeCommand(MigrationCommand.ENABLE_COLO),
      ramStart({ withHostPageSize: false }),
      ramEosAndFooter,
      encodeCommand(MigrationCommand.SWITCHOVER_START),
      ramEnd,
    ),
  );
  assert.deepEqual(
    call(calls, 'command').map(([, command]) => command),
    [{ type: 'enable-colo' }, { type: 'switchover-start' }],
  );
});

const recovery = concatenate(
  fromHex('08 000a 0007 06 70632e72616d'),
  fromHex('08 000a 0005 04 68756765'),
  fromHex('08 0009 0000'),
  ramPart,
  pages,
  ramEosAndFooter,
  ramEnd,
  eof,
);

test('OpenStreamDecoder tells a recovery, whether or not it has seen the migration', () => {
  for (const continued of [undefined, { blocks: EXAMPLE_BLOCKS, ramSectionId: RAM_SECTION_ID }]) {
    const { decoder, handler } = openDecoder(
      continued === undefined ? {} : { continued, accept: 'recovery' },
    );
    feed(decoder, recovery);
    assert.deepEqual(names(handler.calls), [
      'recovery',
      'command',
      'sectionStart',
      'page',
      'zeroPage',
      'page',
      'zeroPage',
      'page',
      'ramSectionEnd',
      'sectionEnd',
      'sectionStart',
      'ramSectionEnd',
      'sectionEnd',
      'eof',
    ]);
    assert.deepEqual(handler.calls.find(([name]) => name === 'page')?.slice(0, 3), ['page', 0, 0x1000]);
    assert.deepEqual(
      decoder.blocks.map(({ idstr }) => idstr),
      ['pc.ram', 'huge'],
    );
    assert.equal(decoder.ramSectionId, RAM_SECTION_ID);
    assert.equal(decoder.ended, true);
  }
});

const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000);

for (const { name, stream } of [
  { name: 'a precopy', stream: precopyStream },
  { name: 'a postcopy', stream: postcopyStream },
  { name: 'a recovery', stream: recovery },
  { name: 'a mapped-ram file', stream: mappedStream(false) },
]) {
  test(`OpenStreamDecoder tells the same however ${name} is cut (SEED=${seed})`, () => {
    const expected = decode(stream);
    let state = seed >>> 0;
    const random = () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return state / 2 ** 32;
    };
    for (let round = 0; round < 40; round++) {
      const longestBytes = round === 0 ? 1 : 1 + Math.floor(random() ** 3 * 9000);
      const { decoder, handler } = openDecoder();
      for (let position = 0; position < stream.length; ) {
        const lengthBytes = 1 + Math.floor(random() * longestBytes);
        feed(decoder, stream.subarray(position, position + lengthBytes));
        position += lengthBytes;
        assert.equal(decoder.decoded.length + decoder.undecoded.length > 0, true);
      }
      assert.deepEqual(handler.calls, expected);
    }
  });
}

test('OpenStreamDecoder.end() says TRUNCATED wherever a postcopy is cut off', () => {
  for (let lengthBytes = 0; lengthBytes < postcopyStream.length; lengthBytes += 37) {
    const { decoder } = openDecoder();
    feed(decoder, postcopyStream.subarray(0, lengthBytes));
    assert.throws(() => decoder.end(), { code: 'TRUNCATED', at: lengthBytes });
  }
});

test('OpenStreamDecoder.decoded holds what was legal before the first illegal byte', () => {
  const { decoder } = openDecoder();
  const legal = concatenate(fileHeader, encodeCommand(MigrationCommand.OPEN_RETURN_PATH), encodePing(1));
  const all = concatenate(legal, fromHex('99'));
  decoder.free().set(all);
  decoder.commit(all.length);
  assert.throws(() => decoder.run(), { code: 'BAD_SECTION', at: legal.length });
  assert.deepEqual(Uint8Array.from(decoder.decoded), legal);
  assert.deepEqual(Uint8Array.from(decoder.undecoded), fromHex('99'));
});

const begun = concatenate(fileHeader, ramStart({ withHostPageSize: false }), ramEosAndFooter);
const advised = concatenate(fileHeader, advise, ramStart({ withHostPageSize: true }), ramEosAndFooter);
const inPostcopy = concatenate(advised, encodePackagedHeader(packageBytes.length), packageBytes);
const memSize = (hex: string) => concatenate(fileHeader, startHeader, fromHex(hex));

for (const { what, stream, code, message, options } of [
  { what: 'what is no stream', stream: fromHex('00'), code: 'BAD_MAGIC' },
  {
    what: 'a recovery where a migration must come',
    stream: recovery,
    code: 'BAD_MAGIC',
    options: { accept: 'migration' },
  },
  {
    what: 'a migration where a recovery must come',
    stream: fileHeader,
    code: 'BAD_MAGIC',
    options: { accept: 'recovery' },
  },
  {
    what: 'a capability that changes nobody knows what',
    stream: header('x-new'),
    code: 'UNSUPPORTED',
    message: /Capability 'x-new'/,
  },
  {
    what: 'a PING that nobody can answer',
    stream: concatenate(fileHeader, encodePing(1)),
    code: 'BAD_COMMAND',
    message: /PING has no place here: no return path is open/,
  },
  {
    what: 'a delta that leaves its page',
    stream: concatenate(
      begun,
      ramPart,
      written((writer) => writePageHeader(writer, 0x3000 + 0x40 - 8, RamSaveFlag.PAGE, 'pc.ram')),
      fromHex('01 0005 ff1f 02 aabb'),
    ),
    code: 'BAD_LENGTH',
    message: /must end within its page/,
  },
  { what: 'a capability twice', stream: header('mapped-ram', 'mapped-ram'), code: 'BAD_VALUE' },
  { what: 'more capabilities than there are', stream: header('mapped-ram', 'a', 'b'), code: 'LIMIT' },
  {
    what: 'a section that only its device can read',
    stream: concatenate(
      fileHeader,
      written((writer) => writeSectionStart(writer, SectionType.START, 1, 'dirty-bitmap', 0, 1)),
    ),
    code: 'UNSUPPORTED',
    message: /'dirty-bitmap'/,
  },
  {
    what: 'a device before RAM is complete',
    stream: concatenate(begun, deviceSections),
    code: 'UNSUPPORTED',
    message: /'example' 0 comes before RAM is complete/,
  },
  { what: 'RAM that starts twice', stream: concatenate(begun, startHeader), code: 'BAD_SECTION' },
  {
    what: 'a section that did not start',
    stream: concatenate(begun, fromHex('02 00000063')),
    code: 'BAD_SECTION',
  },
  { what: 'EOF before RAM is complete', stream: concatenate(begun, eof), code: 'BAD_SECTION' },
  {
    what: 'a delta in postcopy',
    stream: concatenate(inPostcopy, ramPart, fromHex('0000000000000060')),
    code: 'BAD_FLAGS',
  },
  {
    what: 'a delta of another encoding',
    stream: concatenate(begun, ramPart, fromHex('0000000000000040 06 70632e72616d 02 0001 00')),
    code: 'BAD_VALUE',
  },
  {
    what: 'a delta longer than a page',
    stream: concatenate(begun, ramPart, fromHex('0000000000000040 06 70632e72616d 01 1001')),
    code: 'BAD_LENGTH',
  },
  {
    what: 'a delta of a block that was not named',
    stream: concatenate(begun, ramPart, fromHex('0000000000000060 01 0001 00')),
    code: 'BAD_FLAGS',
  },
  {
    what: 'a delta outside of its block',
    stream: concatenate(begun, ramPart, fromHex('0000000000008040 06 70632e72616d 01 0001 00')),
    code: 'OUT_OF_RANGE',
  },
  {
    what: 'a compressed page',
    stream: concatenate(begun, ramPart, fromHex('0000000000000120')),
    code: 'UNSUPPORTED',
    message: /"compress"/,
  },
  {
    what: 'an RDMA hook',
    stream: concatenate(begun, ramPart, fromHex('0000000000000080')),
    code: 'UNSUPPORTED',
    message: /rdma/,
  },
  {
    what: 'a zero page that is not zero',
    stream: concatenate(begun, ramPart, fromHex('0000000000000002 06 70632e72616d 01')),
    code: 'BAD_VALUE',
  },
  {
    what: 'blocks beyond their total',
    stream: memSize('0000000000001004 01 61 0000000000002000'),
    code: 'BAD_LENGTH',
  },
  {
    what: 'a block of no pages',
    stream: memSize('0000000000001004 01 61 0000000000000000'),
    code: 'BAD_LENGTH',
  },
  {
    what: 'a block of half a page',
    stream: memSize('0000000000001004 01 61 0000000000000800'),
    code: 'BAD_LENGTH',
  },
  {
    what: 'a block twice',
    stream: memSize('0000000000002004 01 61 0000000000001000 01 61 0000000000001000'),
    code: 'BAD_VALUE',
  },
  { what: 'a block without a name', stream: memSize('0000000000001004 00'), code: 'BAD_LENGTH' },
  {
    what: 'more blocks than the limit',
    stream: memSize('0000000000002004 01 61 0000000000001000 01 62 0000000000001000'),
    code: 'LIMIT',
    options: { limits: { blocks: 1 } },
  },
  { what: 'more RAM than the limit', stream: memSize('0001000000000004'), code: 'LIMIT' },
  {
    what: 'a page size that was not told',
    stream: concatenate(
      fileHeader,
      advise,
      startHeader,
      fromHex('0000000000200004 01 61 0000000000200000 0000000000010000'),
    ),
    code: 'BAD_VALUE',
  },
  {
    what: 'a page size that is none, in front of another block',
    stream: concatenate(
      fileHeader,
      advise,
      startHeader,
      fromHex('0000000000400004 01 61 0000000000200000 0000000000000010 01 62'),
    ),
    code: 'BAD_VALUE',
  },
  {
    what: 'a length that is not whole host pages',
    stream: concatenate(
      fileHeader,
      advise,
      startHeader,
      fromHex('0000000000001004 01 61 0000000000001000 0000000000200000'),
    ),
    code: 'BAD_VALUE',
  },
  {
    what: 'a mapped-ram header of another version',
    stream: concatenate(
      header('mapped-ram'),
      startHeader,
      fromHex(`0000000000001004 01 61 0000000000001000 00000002 ${'00'.repeat(24)}`),
    ),
    code: 'BAD_VERSION',
  },
  {
    what: 'pages of mapped-ram that lie before their header',
    stream: concatenate(
      header('mapped-ram'),
      startHeader,
      fromHex(
        `0000000000001004 01 61 0000000000001000 00000001 0000000000001000 0000000000000000 0000000000001000`,
      ),
    ),
    code: 'OUT_OF_RANGE',
  },
  {
    what: 'a package that does not begin with LISTEN',
    stream: concatenate(advised, encodePackagedHeader(9), fromHex('08 0005')),
    code: 'BAD_COMMAND',
    message: /must begin with POSTCOPY_LISTEN/,
  },
  { what: 'an empty package', stream: concatenate(advised, encodePackagedHeader(0)), code: 'BAD_LENGTH' },
  {
    what: 'a package above the limit',
    stream: concatenate(advised, encodePackagedHeader(101)),
    code: 'LIMIT',
    options: { limits: { packageBytes: 100 } },
  },
  {
    what: 'a package nobody advised',
    stream: concatenate(begun, encodePackagedHeader(5)),
    code: 'BAD_COMMAND',
  },
  {
    what: 'a section after the package',
    stream: concatenate(inPostcopy, deviceSections),
    code: 'BAD_SECTION',
  },
  { what: 'bytes after the end', stream: concatenate(postcopyStream, eof), code: 'BAD_LENGTH' },
  {
    what: 'a page of a block that a recovery did not name',
    stream: concatenate(fromHex('08 0009 0000'), ramPart, pages),
    code: 'UNKNOWN_BLOCK',
  },
  {
    what: 'a second advice',
    stream: concatenate(fileHeader, encodeAdvise(4096, 4096), advise),
    code: 'BAD_COMMAND',
  },
] as readonly {
  what: string;
  stream: Uint8Array;
  code: string;
  message?: RegExp;
  options?: Partial<OpenStreamDecoderOptions>;
}[]) {
  test(`OpenStreamDecoder refuses ${what}, at once and byte by byte`, () => {
    const expected = { name: 'StreamError', code, ...(message === undefined ? {} : { message }) };
    assert.throws(() => decode(stream, options), expected);
    assert.throws(() => {
      const { decoder } = openDecoder(options);
      for (const byte of stream) feed(decoder, Uint8Array.of(byte));
    }, expected);
  });
}

test('OpenStreamDecoder refuses names that could not be written again as they are', () => {
  const machine = Uint8Array.from(fileHeader);
  machine[fileHeader.length - 1] = 0xff;
  assert.throws(() => feed(openDecoder().decoder, machine), {
    code: 'BAD_VALUE',
    message: /^Machine type received must be printable ASCII, got 'example-\\xff' \(stream byte 13\)$/,
  });
  const start = ramStart({ withHostPageSize: false });
  const nameAt = Buffer.from(start).indexOf('pc.ram');
  start[nameAt] = 0x1b;
  assert.throws(() => feed(openDecoder().decoder, concatenate(fileHeader, start)), {
    code: 'BAD_VALUE',
    at: fileHeader.length + nameAt,
    message: /printable ASCII, got "\\x1bc\.ram"/,
  });
});

test('OpenStreamDecoder refuses in the same words however the bytes are cut', () => {
  for (const wrong of [
    concatenate(postcopyStream, Uint8Array.of(1, 2, 3)),
    concatenate(fileHeader, fromHex('08 00ff 0001')),
  ]) {
    const texts = [1, 5, wrong.length].map((pieceBytes) => {
      const { decoder } = openDecoder();
      try {
        for (let at = 0; at < wrong.length; at += pieceBytes)
          feed(decoder, wrong.subarray(at, at + pieceBytes));
      } catch (error) {
        return (error as Error).message;
      }
      return undefined;
    });
    assert.ok(texts[0] !== undefined);
    assert.deepEqual(new Set(texts).size, 1, String(texts));
  }
});
