import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { concatenate, fromHex } from './example-stream.ts';
import {
  encodePong,
  encodeRecvBitmap,
  encodeReqPages,
  encodeReqPagesId,
  encodeResumeAck,
  encodeShut,
  encodeSwitchoverAck,
  type ReturnPathMessage,
} from './return-path.ts';
import { ReturnPathDecoder } from './return-path-decoder.ts';

const bitmap = Uint8Array.from({ length: 3000 }, (_, index) => index & 0xff);

const returnPath = concatenate(
  encodeSwitchoverAck(),
  encodePong(1),
  encodeReqPagesId(0x7000, 0x1000, 'pc.ram'),
  encodeReqPages(0x2000, 0x2000),
  encodeRecvBitmap('huge', bitmap),
  encodeResumeAck(),
  encodeReqPages(0x3000, 0x1000),
  encodeShut(0),
);

const messages: readonly ReturnPathMessage[] = [
  { type: 'switchover-ack' },
  { type: 'pong', value: 1 },
  { type: 'req-pages', idstr: 'pc.ram', start: 0x7000, lengthBytes: 0x1000 },
  { type: 'req-pages', idstr: 'pc.ram', start: 0x2000, lengthBytes: 0x2000 },
  { type: 'recv-bitmap', idstr: 'huge', bitmap },
  { type: 'resume-ack' },
  { type: 'req-pages', idstr: 'pc.ram', start: 0x3000, lengthBytes: 0x1000 },
  { type: 'shut', status: 0 },
];

test('ReturnPathDecoder decodes every message', () => {
  const decoder = new ReturnPathDecoder();
  assert.deepEqual(decoder.push(returnPath), messages);
  assert.ok(decoder.isBetweenMessages);
});

test('ReturnPathDecoder yields the same messages however the bytes are cut', () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 }), (lengths) => {
      const decoder = new ReturnPathDecoder();
      const decoded: ReturnPathMessage[] = [];
      for (let position = 0, cut = 0; position < returnPath.length; cut++) {
        const lengthBytes = lengths[cut % lengths.length]!;
        decoded.push(...decoder.push(returnPath.subarray(position, position + lengthBytes)));
        position += lengthBytes;
      }
      assert.deepEqual(decoded, messages);
    }),
    { numRuns: 50 },
  );
});

test('ReturnPathDecoder knows when it is within a message', () => {
  const decoder = new ReturnPathDecoder();
  decoder.push(returnPath.subarray(0, 6));
  assert.ok(!decoder.isBetweenMessages);
});

const pong = encodePong(1);
for (const { what, bytes, code, at } of [
  { what: 'type 0', bytes: '0000 0000', code: 'BAD_MESSAGE', at: 8 },
  { what: 'type 8', bytes: '0008 0004', code: 'BAD_MESSAGE', at: 8 },
  { what: 'a SHUT of 5 bytes', bytes: '0001 0005', code: 'BAD_LENGTH', at: 10 },
  { what: 'a REQ_PAGES_ID that is too short for a name', bytes: '0003 000d', code: 'BAD_LENGTH', at: 10 },
  { what: 'a REQ_PAGES_ID that is too long', bytes: '0003 010d', code: 'BAD_LENGTH', at: 10 },
  {
    what: 'a name shorter than its message',
    bytes: '0003 000f 0000000000001000 00001000 01 6161',
    code: 'BAD_LENGTH',
    at: 24,
  },
  {
    what: 'REQ_PAGES before a block was named',
    bytes: '0004 000c 0000000000001000 00001000',
    code: 'BAD_MESSAGE',
    at: 12,
  },
  {
    what: 'an unaligned start',
    bytes: '0003 000e 0000000000001001 00001000 01 61',
    code: 'OUT_OF_RANGE',
    at: 12,
  },
  {
    what: 'a start beyond 2^53',
    bytes: '0003 000e 0020000000000000 00001000 01 61',
    code: 'OUT_OF_RANGE',
    at: 12,
  },
  {
    what: 'an unaligned length',
    bytes: '0003 000e 0000000000001000 00001001 01 61',
    code: 'OUT_OF_RANGE',
    at: 20,
  },
  { what: 'a length of 0', bytes: '0003 000e 0000000000001000 00000000 01 61', code: 'OUT_OF_RANGE', at: 20 },
  { what: 'a bitmap above the limit', bytes: '0005 0002 01 61 0000000000000409', code: 'LIMIT', at: 14 },
  { what: 'a bitmap of an odd size', bytes: '0005 0002 01 61 0000000000000009', code: 'BAD_LENGTH', at: 14 },
  { what: 'an empty bitmap', bytes: '0005 0002 01 61 0000000000000000', code: 'BAD_LENGTH', at: 14 },
  {
    what: 'a wrong end mark',
    bytes: `0005 0002 01 61 0000000000000008 ${'00'.repeat(8)} ${'00'.repeat(8)}`,
    code: 'BAD_VALUE',
    at: 30,
  },
  { what: 'a RESUME_ACK of 2', bytes: '0006 0004 00000002', code: 'BAD_VALUE', at: 12 },
] as const) {
  test(`ReturnPathDecoder refuses ${what}`, () => {
    const decoder = new ReturnPathDecoder({ maxBitmapBytes: 1024 });
    decoder.push(pong);
    assert.throws(() => decoder.push(fromHex(bytes)), { name: 'StreamError', code, at });
  });
}

test('ReturnPathDecoder.undecidedBytes says how much of what came is of an incomplete message', () => {
  const decoder = new ReturnPathDecoder();
  const request = encodeReqPagesId(0x1000, 4096, 'pc.ram');
  for (let position = 0; position < request.length - 1; position++) {
    decoder.push(request.subarray(position, position + 1));
    assert.equal(decoder.undecidedBytes, position + 1);
  }
  decoder.push(request.subarray(-1));
  assert.equal(decoder.undecidedBytes, 0);
});

test('ReturnPathDecoder passes over bitmaps for who does not want them, wherever they are cut', () => {
  const bitmap = encodeRecvBitmap('pc.ram', new Uint8Array(100).fill(0xa5));
  const all = Buffer.concat([bitmap, encodePong(7)]);
  for (const pieceBytes of [1, 7, 50, all.length]) {
    const decoder = new ReturnPathDecoder({ keepsBitmaps: false });
    const messages = [];
    for (let position = 0; position < all.length; position += pieceBytes) {
      messages.push(...decoder.push(all.subarray(position, position + pieceBytes)));
      assert(decoder.undecidedBytes < 20);
    }
    assert.deepEqual(messages, [
      { type: 'recv-bitmap', idstr: 'pc.ram', bitmap: new Uint8Array(0) },
      { type: 'pong', value: 7 },
    ]);
  }
});

test('ReturnPathDecoder.take() tells what was said in front of something wrong, and where a message begins', () => {
  const decoder = new ReturnPathDecoder();
  const told: [unknown, number][] = [];
  const bytes = concatenate(encodePong(1), encodePong(2), Uint8Array.of(0, 9, 0, 0));
  assert.throws(() => decoder.take(bytes, (message) => told.push([message, decoder.messageAt])), {
    code: 'BAD_MESSAGE',
    at: 16,
  });
  assert.deepEqual(told, [
    [{ type: 'pong', value: 1 }, 0],
    [{ type: 'pong', value: 2 }, 8],
  ]);
});
