import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  COMMAND_HEADER_BYTES,
  type DiscardRange,
  decodeCommandPayload,
  encodeAdvise,
  encodeCommand,
  encodeDiscards,
  encodePackagedHeader,
  encodePing,
  encodeRecvBitmapCommand,
  MigrationCommand,
} from './commands.ts';
import { fromHex } from './example-stream.ts';

function decode(command: Uint8Array) {
  const view = new DataView(command.buffer, command.byteOffset, command.byteLength);
  const payload = command.subarray(COMMAND_HEADER_BYTES);
  assert.equal(view.getUint16(3), payload.length);
  return decodeCommandPayload(view.getUint16(1) as MigrationCommand, payload, 0);
}

test('encodeCommand() writes a command without payload', () => {
  assert.deepEqual(encodeCommand(MigrationCommand.POSTCOPY_LISTEN), fromHex('08 0004 0000'));
  assert.deepEqual(encodeCommand(MigrationCommand.SWITCHOVER_START), fromHex('08 000b 0000'));
});

test('encodeCommand() asserts on a payload of the wrong length', () => {
  assert.throws(() => encodeCommand(MigrationCommand.PING, new Uint8Array(3)), { code: 'ERR_ASSERTION' });
});

test('encodePing(), encodeAdvise(), encodePackagedHeader() and encodeRecvBitmapCommand() write their bytes', () => {
  assert.deepEqual(encodePing(0x42), fromHex('08 0002 0004 00000042'));
  assert.deepEqual(encodeAdvise(0x201000, 0x1000), fromHex('08 0003 0010 0000000000201000 0000000000001000'));
  assert.deepEqual(encodePackagedHeader(14000), fromHex('08 0007 0004 000036b0'));
  assert.deepEqual(encodeRecvBitmapCommand('m0'), fromHex('08 000a 0003 02 6d30'));
});

test('encodeDiscards() puts at most 12 ranges into a command', () => {
  const ranges = Array.from({ length: 25 }, (_, index) => ({ start: index * 8192, lengthBytes: 4096 }));
  const commands = encodeDiscards('pc.ram', ranges);
  assert.deepEqual(
    commands.map((command) => command.length),
    [5 + 9 + 12 * 16, 5 + 9 + 12 * 16, 5 + 9 + 16],
  );
  assert.deepEqual(
    commands[2],
    fromHex('08 0006 0019 00 06 70632e72616d 00 0000000000030000 0000000000001000'),
  );
  assert.deepEqual(encodeDiscards('pc.ram', []), []);
});

test('decodeCommandPayload() gives back the ranges that encodeDiscards() was given', () => {
  const range = fc.record(
    { start: fc.maxSafeNat(), lengthBytes: fc.maxSafeNat() },
    { noNullPrototype: true },
  );
  fc.assert(
    fc.property(
      fc.string({ minLength: 1, maxLength: 255, unit: fc.constantFrom('a', '/', '.', '@', '0') }),
      fc.array(range, { maxLength: 40 }),
      (idstr, ranges) => {
        const back: DiscardRange[] = [];
        for (const command of encodeDiscards(idstr, ranges)) {
          const decoded = decode(command);
          assert.ok(decoded.type === 'postcopy-ram-discard' && decoded.idstr === idstr);
          back.push(...decoded.ranges);
        }
        assert.deepEqual(back, ranges);
      },
    ),
  );
});

test('decodeCommandPayload() decodes each form', () => {
  assert.deepEqual(decode(encodePing(7)), { type: 'ping', value: 7 });
  assert.deepEqual(decode(encodeAdvise(0x1000, 0x1000)), {
    type: 'postcopy-advise',
    pageSizeSummary: 0x1000,
    targetPageBytes: 0x1000,
  });
  assert.deepEqual(decode(fromHex('08 0003 0000')), { type: 'postcopy-advise-bitmaps' });
  assert.deepEqual(decode(encodeRecvBitmapCommand('pc.ram')), { type: 'recv-bitmap', idstr: 'pc.ram' });
  assert.deepEqual(decode(encodePackagedHeader(9)), { type: 'packaged-header', lengthBytes: 9 });
  for (const [command, type] of [
    [MigrationCommand.OPEN_RETURN_PATH, 'open-return-path'],
    [MigrationCommand.POSTCOPY_LISTEN, 'postcopy-listen'],
    [MigrationCommand.POSTCOPY_RUN, 'postcopy-run'],
    [MigrationCommand.ENABLE_COLO, 'enable-colo'],
    [MigrationCommand.POSTCOPY_RESUME, 'postcopy-resume'],
    [MigrationCommand.SWITCHOVER_START, 'switchover-start'],
  ] as const) {
    assert.deepEqual(decode(encodeCommand(command)), { type });
  }
});

for (const { what, command, payload, code, at } of [
  { what: 'a PING of 3 bytes', command: 2, payload: '000000', code: 'BAD_LENGTH', at: 100 },
  { what: 'an ADVISE of 8 bytes', command: 3, payload: '0000000000001000', code: 'BAD_LENGTH', at: 100 },
  { what: 'an ADVISE beyond 2^53', command: 3, payload: 'ff'.repeat(16), code: 'OUT_OF_RANGE', at: 100 },
  {
    what: 'a discard of version 1',
    command: 6,
    payload: `01 01 61 00 ${'00'.repeat(16)}`,
    code: 'BAD_VERSION',
    at: 100,
  },
  { what: 'a discard without a block', command: 6, payload: '00 00 00', code: 'BAD_LENGTH', at: 101 },
  { what: 'a discard whose name is cut', command: 6, payload: '00 05 61', code: 'BAD_LENGTH', at: 102 },
  {
    what: 'a discard without the NUL',
    command: 6,
    payload: `00 01 61 41 ${'00'.repeat(16)}`,
    code: 'BAD_VALUE',
    at: 103,
  },
  { what: 'a discard without ranges', command: 6, payload: '00 01 61 00', code: 'BAD_LENGTH', at: 104 },
  {
    what: 'a discard of half a range',
    command: 6,
    payload: `00 01 61 00 ${'00'.repeat(8)}`,
    code: 'BAD_LENGTH',
    at: 104,
  },
  { what: 'a RECV_BITMAP with more', command: 10, payload: '01 61 00', code: 'BAD_LENGTH', at: 102 },
  { what: 'an empty RECV_BITMAP', command: 10, payload: '', code: 'BAD_LENGTH', at: 100 },
] as const) {
  test(`decodeCommandPayload() refuses ${what}`, () => {
    assert.throws(() => decodeCommandPayload(command, fromHex(payload), 100), {
      name: 'StreamError',
      code,
      at,
    });
  });
}
