import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodePing } from './commands.ts';
import { encodeGlobalState } from './device-sections.ts';
import {
  advise,
  concatenate,
  EXAMPLE_BLOCKS,
  EXAMPLE_MACHINE_TYPE,
  eof,
  examplePage,
  feed,
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
  recordingDecoder,
  written,
} from './example-stream.ts';
import { writeZeroPage } from './ram-record.ts';
import { MIN_STREAM_BUFFER_BYTES } from './stream-decoder.ts';
import { encodeVmDescription } from './vm-description.ts';

const PAGE_CALLS = [
  ['page', 0, 0x1000, examplePage(1)],
  ['zeroPage', 0, 0x2000],
  ['page', 0, 0x7000, examplePage(2)],
  ['zeroPage', 1, 0x1f_f000],
  ['page', 1, 0, examplePage(3)],
];

function ramSectionCalls(type: string, ...calls: unknown[][]): unknown[][] {
  return [
    ['sectionStart', type, RAM_SECTION_ID, 'ram'],
    ...calls,
    ['ramSectionEnd'],
    ['sectionEnd', type, RAM_SECTION_ID, 'ram'],
  ];
}

const DEVICE_CALLS = [
  ['sectionStart', 'full', 7, 'example'],
  ['device', 'example', Uint8Array.of(1, 2, 3), 0],
  ['sectionEnd', 'full', 7, 'example'],
  ['sectionStart', 'full', 8, 'globalstate'],
  ['device', 'globalstate', encodeGlobalState('running'), 0],
  ['sectionEnd', 'full', 8, 'globalstate'],
];

const PRECOPY_CALLS = [
  ['configuration', EXAMPLE_MACHINE_TYPE],
  ['command', { type: 'open-return-path' }],
  ['command', { type: 'ping', value: 1 }],
  ...ramSectionCalls('start', ['ramBlocks', EXAMPLE_BLOCKS]),
  ...ramSectionCalls('part', ...PAGE_CALLS),
  ...ramSectionCalls('part', ['zeroPage', 1, 0x1000]),
  ...ramSectionCalls('end'),
  ...DEVICE_CALLS,
  ['eof'],
];

const POSTCOPY_CALLS = [
  ['configuration', EXAMPLE_MACHINE_TYPE],
  ['command', { type: 'open-return-path' }],
  ['command', { type: 'postcopy-advise', pageSizeSummary: 0x201000, targetPageBytes: 4096 }],
  ...ramSectionCalls('start', ['ramBlocks', EXAMPLE_BLOCKS]),
  ...ramSectionCalls('part', ...PAGE_CALLS),
  [
    'command',
    { type: 'postcopy-ram-discard', idstr: 'pc.ram', ranges: [{ start: 0x1000, lengthBytes: 0x3000 }] },
  ],
  ['command', { type: 'ping', value: 2 }],
  ['command', { type: 'packaged', bytes: packageBytes }],
  ['command', { type: 'ping', value: 4 }],
  ...ramSectionCalls('part', ...PAGE_CALLS),
  ...ramSectionCalls('end'),
  ['eof'],
];

test('StreamDecoder decodes a precopy, which may end without a VM description', () => {
  const { decoder, handler } = recordingDecoder();
  feed(decoder, precopyStream);
  assert.deepEqual(handler.calls, PRECOPY_CALLS);
  assert.equal(decoder.bytesDecoded, precopyStream.length);
  assert.equal(decoder.ended, false);
  decoder.end();
  assert.equal(decoder.ended, true);
});

test('StreamDecoder ends after the VM description, and does not mind if that is cut', () => {
  const description = encodeVmDescription(4096, []);
  const { decoder, handler } = recordingDecoder();
  feed(decoder, concatenate(precopyStream, description));
  assert.deepEqual(handler.calls.at(-1), ['vmDescription', description.length - 5]);
  assert.equal(decoder.ended, true);

  const cut = recordingDecoder();
  feed(cut.decoder, concatenate(precopyStream, description.subarray(0, 9)));
  cut.decoder.end();
  assert.equal(cut.decoder.ended, true);
});

test('StreamDecoder decodes a postcopy, which ends with EOF', () => {
  const { decoder, handler } = recordingDecoder();
  feed(decoder, postcopyStream);
  assert.deepEqual(handler.calls, POSTCOPY_CALLS);
  assert.equal(decoder.ended, true);
  assert.equal(decoder.ramSectionId, RAM_SECTION_ID);
});

test('StreamDecoder decodes a package in place', () => {
  const { decoder, handler } = recordingDecoder({ buffer: packageBytes.slice(), embedded: true });
  decoder.commit(packageBytes.length);
  decoder.run();
  decoder.end();
  assert.deepEqual(handler.calls, [
    ['command', { type: 'postcopy-listen' }],
    ...DEVICE_CALLS,
    ['command', { type: 'ping', value: 3 }],
    ['command', { type: 'postcopy-run' }],
  ]);
});

test('StreamDecoder goes on with a recovered stream', () => {
  const { decoder, handler } = recordingDecoder({ resumed: { ramSectionId: RAM_SECTION_ID } });
  feed(decoder, concatenate(fromHex('08 000a 0007 06 70632e72616d 08 0009 0000'), ramPart, pages));
  feed(decoder, concatenate(ramEosAndFooter, ramEnd, eof));
  assert.deepEqual(handler.calls, [
    ['command', { type: 'recv-bitmap', idstr: 'pc.ram' }],
    ['command', { type: 'postcopy-resume' }],
    ...ramSectionCalls('part', ...PAGE_CALLS),
    ...ramSectionCalls('end'),
    ['eof'],
  ]);
  assert.equal(decoder.ended, true);
});

test('StreamDecoder accepts the subsections of the configuration that ask for nothing', () => {
  const { decoder, handler } = recordingDecoder();
  const name = (text: string) => concatenate(Uint8Array.of(5, text.length), Buffer.from(text));
  feed(
    decoder,
    concatenate(
      fileHeader,
      name('configuration/target-page-bits'),
      fromHex('00000001 0000000c'),
      name('configuration/capabilities'),
      fromHex('00000001 00000000'),
      name('configuration/uuid'),
      fromHex(`00000001 ${'07'.repeat(16)}`),
      fromHex('08 0001 0000'),
      encodePing(1),
    ),
  );
  assert.deepEqual(handler.calls.at(-1), ['command', { type: 'ping', value: 1 }]);
});

function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000);

for (const { name, stream, calls } of [
  { name: 'a precopy', stream: precopyStream, calls: PRECOPY_CALLS },
  { name: 'a postcopy', stream: postcopyStream, calls: POSTCOPY_CALLS },
]) {
  test(`StreamDecoder makes the same calls however ${name} is cut (SEED=${seed})`, () => {
    const random = seededRandom(seed);
    for (let round = 0; round < 50; round++) {
      const longestBytes = 1 + Math.floor(random() ** 3 * 9000);
      const { decoder, handler } = recordingDecoder();
      for (let position = 0; position < stream.length; ) {
        const lengthBytes = 1 + Math.floor(random() * longestBytes);
        feed(decoder, stream.subarray(position, position + lengthBytes));
        position += lengthBytes;
      }
      decoder.end();
      assert.deepEqual(handler.calls, calls);
    }
  });

  test(`StreamDecoder makes the same calls when ${name} comes byte by byte`, () => {
    const { decoder, handler } = recordingDecoder();
    for (let position = 0; position < stream.length; position++) {
      feed(decoder, stream.subarray(position, position + 1));
    }
    decoder.end();
    assert.deepEqual(handler.calls, calls);
  });

  test(`StreamDecoder.end() says TRUNCATED wherever ${name} is cut off`, () => {
    for (let lengthBytes = 0; lengthBytes < stream.length; lengthBytes += lengthBytes % 97 === 0 ? 1 : 61) {
      const { decoder } = recordingDecoder();
      feed(decoder, stream.subarray(0, lengthBytes));
      assert.throws(() => decoder.end(), { name: 'StreamError', code: 'TRUNCATED', at: lengthBytes });
    }
  });
}

test('StreamDecoder.pause() stops after the record, also when more is there', () => {
  const { decoder, handler } = recordingDecoder();
  const { zeroPage } = handler;
  handler.zeroPage = (...args) => {
    zeroPage.apply(handler, args);
    decoder.pause();
  };
  feed(decoder, concatenate(fileHeader, ramStart({ withHostPageSize: false }), ramEosAndFooter, ramPart));
  const beforeBytes = decoder.bytesDecoded;
  feed(decoder, pages);
  assert.deepEqual(handler.calls.at(-1), ['zeroPage', 0, 0x2000]);
  assert.equal(decoder.bytesDecoded, beforeBytes + 8 + 7 + 4096 + 9);
  decoder.run();
  assert.deepEqual(handler.calls.at(-1), ['zeroPage', 0, 0x2000]);
  decoder.resume();
  decoder.run();
  assert.deepEqual(handler.calls.at(-1), ['zeroPage', 1, 0x1f_f000]);
});

test('StreamDecoder.free() keeps what is not decoded, and while paused may fill up', () => {
  const { decoder, handler } = recordingDecoder();
  handler.configuration = () => decoder.pause();
  decoder.free().set(fileHeader);
  decoder.commit(fileHeader.length);
  decoder.run();
  const records = Math.floor(MIN_STREAM_BUFFER_BYTES / 9);
  const start = concatenate(ramStart({ withHostPageSize: false }), ramEosAndFooter, ramPart);
  const zeroPages = concatenate(
    ...Array.from({ length: records }, (_, index) =>
      written((writer) => writeZeroPage(writer, 0x1000 * (index % 8), index === 0 ? 'pc.ram' : null)),
    ),
  );
  const all = concatenate(start, zeroPages);
  const first = all.subarray(0, decoder.free().length);
  decoder.free().set(first);
  decoder.commit(first.length);
  assert.equal(decoder.free().length, 0);
  decoder.resume();
  decoder.run();
  feed(decoder, all.subarray(first.length));
  assert.equal(handler.calls.filter(([name]) => name === 'zeroPage').length, records);
});

test('StreamDecoder must not be used after it has failed', () => {
  const { decoder } = recordingDecoder();
  assert.throws(() => feed(decoder, fromHex('00')), { code: 'BAD_MAGIC' });
  assert.throws(() => decoder.run(), { code: 'ERR_ASSERTION' });
});

test('StreamDecoder takes a large package in pieces, and only as much memory as came', () => {
  const { decoder } = recordingDecoder({ limits: { packageBytes: 0xffff_ffff } });
  feed(decoder, concatenate(fileHeader, advise, ramStart({ withHostPageSize: true }), ramEosAndFooter));
  const before = process.memoryUsage().arrayBuffers;
  feed(decoder, fromHex('08 0007 0004 fffffff0 00'));
  assert.ok(process.memoryUsage().arrayBuffers - before < 16 * 1024 * 1024);

  const whole = recordingDecoder();
  const content = new Uint8Array(3_500_000).map((_, index) => index % 251);
  feed(whole.decoder, concatenate(fileHeader, advise, ramStart({ withHostPageSize: true }), ramEosAndFooter));
  feed(whole.decoder, concatenate(fromHex('08 0007 0004 003567e0'), content));
  assert.deepEqual(whole.handler.calls.at(-1), ['command', { type: 'packaged', bytes: content }]);
});
