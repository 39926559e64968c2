import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodePackagedHeader } from '../wire/commands.ts';
import {
  concatenate,
  deviceSections,
  EXAMPLE_MACHINE_TYPE,
  eof,
  fileHeader,
  fromHex,
  packageBytes,
  postcopyStream,
  precopyStream,
  ramEnd,
  ramEosAndFooter,
  ramPart,
  ramStart,
  written,
} from '../wire/example-stream.ts';
import { writeZeroPage } from '../wire/ram-record.ts';
import { MIN_STREAM_BUFFER_BYTES } from '../wire/stream-decoder.ts';
import { reportText } from './report-text.ts';
import { StreamInspector } from './stream-inspector.ts';
import type { StreamReport } from './stream-report.ts';

function inspect(stream: Uint8Array, pieceBytes = 1000): StreamReport {
  const buffer = new Uint8Array(MIN_STREAM_BUFFER_BYTES);
  const inspector = new StreamInspector({ buffer });
  for (let position = 0; position < stream.length && !inspector.hasFailed; ) {
    const piece = stream.subarray(position, position + pieceBytes);
    inspector.decoder.free().set(piece);
    inspector.received(piece.length);
    position += piece.length;
  }
  inspector.end();
  return inspector.report();
}

const kinds = ({ items }: StreamReport) => items.map(({ kind }) => kind);

function describedBy(...devices: readonly [name: string, size: number][]): Uint8Array {
  const json = JSON.stringify({
    page_size: 4096,
    devices: devices.map(([name, size]) => ({ name, instance_id: 0, fields: [{ name: 'data', size }] })),
  });
  const header = Buffer.alloc(5);
  header[0] = 6;
  header.writeUInt32BE(json.length, 1);
  return concatenate(header, Buffer.from(json));
}

const openReturnPath = fromHex('08 0001 0000');
const described = describedBy(['example', 7], ['globalstate', 104]);

test('StreamInspector tells what a precopy holds, however it is cut', () => {
  const stream = concatenate(precopyStream, described);
  const report = inspect(stream);
  assert.deepEqual(inspect(stream, 1), report);
  assert.equal(report.kind, 'precopy');
  assert.equal(report.isComplete, true);
  assert.equal(report.error, null);
  assert.equal(report.bytes, stream.length);
  assert.equal(report.machineType, EXAMPLE_MACHINE_TYPE);
  assert.equal(report.runState, 'running');
  assert.deepEqual(kinds(report), [
    'configuration',
    'command',
    'command',
    'ram-start',
    'ram-parts',
    'ram-end',
    'devices',
    'eof',
    'description',
  ]);
  assert.deepEqual(report.blocks[0]?.pages, { normal: 2, zero: 1, xbzrle: 0, again: 0 });
  assert.deepEqual(report.blocks[1]?.pages, { normal: 1, zero: 2, xbzrle: 0, again: 0 });
  assert.deepEqual(
    report.devices.map(({ idstr, bodyBytes, versionId }) => [idstr, bodyBytes, versionId]),
    [
      ['example', 7, 1],
      ['globalstate', 104, 1],
    ],
  );
  assert.equal(report.devicesBy, 'description');
  report.items.forEach((item, index) => {
    assert.equal(item.endAt, report.items[index + 1]?.at ?? stream.length);
  });
});

test('StreamInspector tells what a postcopy holds', () => {
  const report = inspect(postcopyStream);
  assert.equal(report.kind, 'postcopy');
  assert.equal(report.isComplete, true);
  assert.deepEqual(kinds(report), [
    'configuration',
    'command',
    'command',
    'ram-start',
    'ram-parts',
    'discards',
    'command',
    'package',
    'command',
    'ram-parts',
    'ram-end',
    'eof',
  ]);
  assert.deepEqual(
    report.items.find(({ kind }) => kind === 'discards'),
    { ...report.items[5], idstr: 'pc.ram', commands: 1, ranges: 1, pages: 3 },
  );
  assert.equal(report.blocks[0]?.pages.again, 3);
  assert.equal(report.blocks[1]?.pageSizeBytes, 2 * 2 ** 20);
  assert.equal(report.passes, 2); // The example sends the first pages of its last block out of order.
  assert.equal(report.devicesBy, 'footers');
  assert.deepEqual(
    report.devices.map(({ idstr, bodyBytes }) => [idstr, bodyBytes]),
    [
      ['example', 7],
      ['globalstate', 104],
    ],
  );
});

test('StreamInspector counts a pass each time that the source begins anew', () => {
  const zero = (offset: number, idstr: string | null) =>
    written((writer) => writeZeroPage(writer, offset, idstr));
  const stream = concatenate(
    fileHeader,
    ramStart({ withHostPageSize: false }),
    ramEosAndFooter,
    ramPart,
    zero(0, 'pc.ram'),
    zero(0x3000, null),
    zero(0, 'huge'),
    zero(0x1000, null),
    ramEosAndFooter,
    ramPart,
    zero(0x1000, 'pc.ram'),
    zero(0x3000, null),
    ramEosAndFooter,
    ramPart,
    zero(0x3000, null),
    ramEosAndFooter,
    ramEnd,
  );
  const report = inspect(stream);
  assert.equal(report.passes, 3);
  assert.deepEqual(report.blocks[0]?.pages, { normal: 0, zero: 5, xbzrle: 0, again: 2 });
});

test('StreamInspector folds what it cannot keep', () => {
  const pings = Array.from({ length: 10_050 }, (_, index) =>
    fromHex(`08 0002 0004 ${(index + 1).toString(16).padStart(8, '0')}`),
  );
  const report = inspect(concatenate(fileHeader, openReturnPath, ...pings));
  assert.equal(report.items.length, 10_000);
  assert.equal(report.itemsLeftOut, 52);
  assert.match(reportText('x', report), /… and 52 more/);
  const same = inspect(concatenate(fileHeader, openReturnPath, ...pings.map(() => pings[0]!)));
  assert.equal(same.items.length, 3);
});

for (const { what, stream, code, at, reading } of [
  {
    what: 'an illegal record',
    stream: concatenate(
      fileHeader,
      ramStart({ withHostPageSize: false }),
      ramEosAndFooter,
      ramPart,
      new Uint8Array(8),
    ),
    code: 'BAD_FLAGS',
    at: 22 + 17 + 8 + 15 + 13 + 13 + 5,
    reading: 'a RAM section',
  },
  {
    what: 'an end that comes too early',
    stream: precopyStream.subarray(0, 1000),
    code: 'TRUNCATED',
    at: 1000,
    reading: 'a RAM section',
  },
  {
    what: 'device state that is cut off',
    stream: precopyStream.subarray(0, -20),
    code: 'TRUNCATED',
    at: precopyStream.length - 20,
    reading: 'device state',
  },
  {
    what: 'a description that does not fit the devices',
    stream: concatenate(precopyStream, describedBy(['example', 8], ['globalstate', 104])),
    code: 'BAD_FOOTER',
    at: precopyStream.length - 1 - deviceSections.length + 21 + 8,
    reading: 'device state',
  },
  {
    what: 'bytes behind the end',
    stream: concatenate(precopyStream, described, eof),
    code: 'BAD_LENGTH',
    at: precopyStream.length + described.length,
    reading: 'device state',
  },
  {
    what: 'a package that does not end as it must',
    stream: postcopyStream.slice().fill(9, postcopyStream.indexOf(0) && packageEnd() - 1, packageEnd()),
    code: 'BAD_COMMAND',
    at: packageEnd() - 5,
    reading: 'the package',
  },
]) {
  test(`StreamInspector finds ${what}, and keeps what came before`, () => {
    const report = inspect(stream);
    assert.equal(report.error?.code, code);
    assert.equal(report.error?.at, at);
    assert.equal(report.error?.reading, reading);
    assert.equal(report.isComplete, false);
    assert.equal(report.machineType, EXAMPLE_MACHINE_TYPE);
    assert(report.items.length > 1);
  });
}

function packageEnd(): number {
  return Buffer.from(postcopyStream).indexOf(packageBytes) + packageBytes.length;
}

test('reportText() is for people', () => {
  const text = reportText('vm.stream', inspect(postcopyStream));
  assert.match(text, /^vm\.stream: postcopy stream of example-1, 24\.5 KiB, complete\n/);
  assert.match(
    text,
    /\nRAM block\s+length\s+normal\s+zero\s+xbzrle\s+again\npc\.ram\s+32 KiB\s+4\s+2\s+0\s+3\n/,
  );
  assert.match(text, /POSTCOPY_ADVISE, page sizes 0x201000\n/);
  assert.match(text, /POSTCOPY_RAM_DISCARD, "pc\.ram": 3 pages in 1 range\n/);
  assert.match(text, /PACKAGED, \d+ bytes of device state\n/);
  assert.match(text, /RAM PART, 3 normal, 2 zero \(5 again\)\n/);
  assert.match(text, /\nglobalstate\s+0\s+1\s+8\s+104 bytes\s+0x[0-9a-f]+\n/);
});

test('StreamInspector keeps a package so long, and no longer', () => {
  const before = postcopyStream.subarray(
    0,
    Buffer.from(postcopyStream).indexOf(Buffer.from(packageBytes)) - encodePackagedHeader(0).length,
  );
  const most = 512 * 1024 * 1024;
  const errorOf = (lengthBytes: number) =>
    inspect(concatenate(before, encodePackagedHeader(lengthBytes))).error?.message ?? '';
  assert.match(errorOf(most), /ended|cut/);
  assert.match(errorOf(most + 1), /at most 536870912 bytes, got 536870913/);
});
