import assert from 'node:assert/strict';
import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { mapAnonymous } from '../linux/memory.ts';
import { fromHex } from '../wire/example-stream.ts';
import { SnapshotWriter, type SnapshotWriterOptions } from './snapshot-writer.ts';

const MIB = 2 ** 20;
const PAGE = 4096;
const BLOCKS = [
  { idstr: 'pc.ram', lengthBytes: 2 * MIB, pageSizeBytes: PAGE },
  { idstr: 'rom', lengthBytes: 65 * PAGE, pageSizeBytes: PAGE },
];
const DEVICES = fromHex('04 00000005 03 646576 00000000 00000001 aabbcc 7e 00000005');

function folderOf(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'snapshot-'));
  t.after(() => rmSync(folder, { recursive: true }));
  return folder;
}

function createWriter(
  t: TestContext,
  path: string,
  more: Partial<SnapshotWriterOptions> = {},
): SnapshotWriter {
  const writer = new SnapshotWriter({ path, machineType: 'pc-1', ramSectionId: 2, blocks: BLOCKS, ...more });
  t.after(() => writer.abandon());
  return writer;
}

const page = (fill: number): Uint8Array => new Uint8Array(PAGE).fill(fill);

test('SnapshotWriter writes every byte of a mapped-ram file', (t) => {
  const folder = folderOf(t);
  const path = join(folder, 'a.snap');
  const writer = createWriter(t, path, { uuid: new Uint8Array(16).fill(0xee) });
  writer.writePage(0, 1, page(1));
  writer.writePage(0, 511, page(2));
  writer.writePage(1, 64, page(3));
  assert.deepEqual(readdirSync(folder), [`.a.snap.${process.pid}-1.partial`]);
  writer.finish(DEVICES, Buffer.from('{"page_size":4096}'));
  assert.deepEqual(readdirSync(folder), ['a.snap']);

  const bytes = readFileSync(path);
  const head = fromHex(
    '5145564d 00000003 07 00000004 70632d31' +
      '05 1a 636f6e66696775726174696f6e2f6361706162696c6974696573 00000001 00000001 0a 6d61707065642d72616d' +
      '05 12 636f6e66696775726174696f6e2f75756964 00000001 eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee' +
      '01 00000002 03 72616d 00000000 00000004' +
      '0000000000241004' +
      '06 70632e72616d 0000000000200000 00000001 0000000000001000 00000000000000ac 0000000000100000' +
      '0200000000000000',
  );
  assert.deepEqual(bytes.subarray(0, head.length), Buffer.from(head));
  assert.equal(bytes[0xac + 63], 0x80);
  assert.ok(bytes.subarray(0xac + 64, MIB).every((byte) => byte === 0));
  assert.ok(bytes.subarray(MIB + PAGE, MIB + 2 * PAGE).every((byte) => byte === 1));
  assert.ok(bytes.subarray(3 * MIB - PAGE, 3 * MIB).every((byte) => byte === 2));
  const entry = fromHex(
    '03 726f6d 0000000000041000 00000001 0000000000001000 0000000000300028 0000000000400000 0000000000000000 01',
  );
  assert.deepEqual(bytes.subarray(3 * MIB, 3 * MIB + entry.length), Buffer.from(entry));
  assert.ok(bytes.subarray(4 * MIB + 64 * PAGE, 4 * MIB + 65 * PAGE).every((byte) => byte === 3));
  const tail = fromHex(
    '0000000000000010 7e 00000002 03 00000002 0000000000000010 7e 00000002' +
      '04 00000005 03 646576 00000000 00000001 aabbcc 7e 00000005 00' +
      '06 00000012 7b22706167655f73697a65223a343039367d',
  );
  assert.deepEqual(bytes.subarray(4 * MIB + 65 * PAGE), Buffer.from(tail));
  assert.equal(statSync(path).mode & 0o777, 0o600);
  assert.ok(statSync(path).blocks * 512 < 256 * 1024, 'what was not written takes no room');
});

test('SnapshotWriter keeps what a page was last, in whatever way it was written', (t) => {
  const path = join(folderOf(t), 'a.snap');
  const writer = createWriter(t, path);
  const memory = mapAnonymous(8 * PAGE);
  t.after(() => memory.unmap());
  for (let index = 0; index < 8; index++) memory.bytes.fill(index + 1, index * PAGE, (index + 1) * PAGE);
  const at = (index: number): bigint => memory.address + BigInt(index * PAGE);
  const now = (block: number, number: number): number => {
    const into = page(0xff);
    writer.readPage(block, number, into);
    assert.ok(into.every((byte) => byte === into[0]));
    return into[0] as number;
  };

  for (const [index, number] of [4, 5, 6, 10].entries()) writer.queuePage(0, number, at(index));
  assert.deepEqual(
    readFileSync(writer.partialPath).subarray(MIB + 10 * PAGE),
    Buffer.alloc(0),
    '10 is queued',
  );
  assert.equal(now(0, 10), 4);
  writer.queuePage(0, 11, at(4));
  writer.queuePage(1, 12, at(5));
  writer.queuePage(1, 13, at(6));
  writer.zeroPage(1, 13);
  writer.writePage(1, 12, page(9));
  assert.equal(now(1, 12), 9);
  assert.equal(now(1, 13), 0);
  writer.zeroPage(0, 5);
  writer.zeroPage(0, 6);
  writer.queuePage(0, 6, at(7));
  assert.deepEqual(
    [3, 4, 5, 6, 7].map((number) => now(0, number)),
    [0, 1, 0, 8, 0],
  );
  assert.equal(writer.hasContent(0).count(), 4);
  writer.finish(DEVICES);

  const bytes = readFileSync(path);
  const firstOf = (offset: number): number => bytes[offset] as number;
  assert.deepEqual(
    [4, 5, 6, 10, 11].map((number) => firstOf(MIB + number * PAGE)),
    [1, 0, 8, 4, 5],
  );
  assert.deepEqual(
    [12, 13].map((number) => firstOf(4 * MIB + number * PAGE)),
    [9, 0],
  );
  assert.equal(bytes.readUInt32LE(0x84), 0b1100_0101_0000);
});

test('SnapshotWriter writes runs longer than one call takes', (t) => {
  const path = join(folderOf(t), 'a.snap');
  const blocks = [{ idstr: 'm', lengthBytes: 1500 * PAGE, pageSizeBytes: PAGE }];
  const writer = createWriter(t, path, { blocks });
  const memory = mapAnonymous(2 * PAGE + 1);
  t.after(() => memory.unmap());
  memory.bytes.fill(1);
  // Two places by turns, so that no two of the ranges are one.
  for (let number = 0; number < 1500; number++) {
    writer.queuePage(0, number, memory.address + BigInt((number % 2) * (PAGE + 1)));
  }
  writer.finish(new Uint8Array());
  assert.ok(
    readFileSync(path)
      .subarray(MIB, MIB + 1500 * PAGE)
      .every((byte) => byte === 1),
  );
});

test('a file that is not finished is no snapshot, and is gone when it is abandoned', (t) => {
  const folder = folderOf(t);
  const writer = createWriter(t, join(folder, 'a.snap'));
  writer.writePage(0, 0, page(1));
  assert.equal(readFileSync(writer.partialPath).readUInt32BE(0), 0);
  writer.abandon();
  writer.abandon();
  assert.deepEqual(readdirSync(folder), []);
});

test('SnapshotWriter passes over files that were left behind', (t) => {
  const folder = folderOf(t);
  writeFileSync(join(folder, `.a.snap.${process.pid}-1.partial`), 'left');
  const writer = createWriter(t, join(folder, 'a.snap'));
  assert.match(writer.partialPath, /-2\.partial$/);
  writer.finish(DEVICES);
  assert.deepEqual(readdirSync(folder), [`.a.snap.${process.pid}-1.partial`, 'a.snap']);
});

test('SnapshotWriter replaces a file only if it may, and only with a whole one', (t) => {
  const folder = folderOf(t);
  const path = join(folder, 'a.snap');
  writeFileSync(path, 'old');
  assert.throws(() => createWriter(t, path), {
    code: 'EXISTS',
    message: `Cannot write snapshot "${path}": there is a file of that name already`,
  });
  const writer = createWriter(t, path, { overwrite: true });
  assert.equal(readFileSync(path, 'latin1'), 'old');
  writer.finish(DEVICES);
  assert.equal(readFileSync(path).readUInt32BE(0), 0x5145564d);
});

test('SnapshotWriter does not replace a file that came in the meantime', (t) => {
  const folder = folderOf(t);
  const path = join(folder, 'a.snap');
  const writer = createWriter(t, path);
  writeFileSync(path, 'other');
  assert.throws(() => writer.finish(DEVICES), { code: 'EXISTS' });
  writer.abandon();
  assert.equal(readFileSync(path, 'latin1'), 'other');
  assert.deepEqual(readdirSync(folder), ['a.snap']);
});

test('SnapshotWriter writes through a link, and replaces nothing but files', (t) => {
  const folder = folderOf(t);
  writeFileSync(join(folder, 'real'), 'old');
  symlinkSync('real', join(folder, 'link'));
  const writer = createWriter(t, join(folder, 'link'), { overwrite: true });
  writer.finish(DEVICES);
  assert.equal(readFileSync(join(folder, 'real')).readUInt32BE(0), 0x5145564d);
  assert.throws(() => createWriter(t, folder, { overwrite: true }), /it is there and not a regular file$/);
  assert.throws(
    () => createWriter(t, '/dev/null', { overwrite: true }),
    /it is there and not a regular file$/,
  );
});

test('SnapshotWriter says what the system refused, and for which file', (t) => {
  const folder = folderOf(t);
  const path = join(folder, 'no', 'a.snap');
  assert.throws(() => createWriter(t, path), {
    name: 'SnapshotError',
    code: 'SYSTEM',
    message: `Cannot write snapshot "${path}": no such file or directory (ENOENT)`,
  });
});
