import assert from 'node:assert/strict';
import {
  appendFileSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { encodeAdvise, encodeCommand, encodePackagedHeader, MigrationCommand } from '../wire/commands.ts';
import { concatenate, fromHex, written } from '../wire/example-stream.ts';
import { TARGET_PAGE_BYTES } from '../wire/ram-record.ts';
import {
  BLOCKS,
  contentAfter,
  DEVICE_SECTIONS,
  fileOf,
  folderOf,
  header,
  MACHINE_TYPE,
  RAM_SECTION_ID,
  ramEnd,
  ramPart,
  ramStart,
  records,
  streamOf,
  tail,
  VM_DESCRIPTION,
  type Write,
  writeSnapshot,
} from './example-file.ts';
import { indexPath } from './index-file.ts';
import { type OpenSnapshotOptions, openSnapshot } from './open-snapshot.ts';
import { openBlock, type Snapshot } from './snapshot.ts';
import { SnapshotError } from './snapshot-error.ts';

const WRITES: readonly Write[] = [
  [0, 1, 1],
  [0, 2, 2],
  [1, 2, 3],
  [0, 79, 4],
  [0, 2, 0],
  [0, 1, 5],
];
const ROUNDS = [WRITES.slice(0, 4), WRITES.slice(4)] as const;

/** Opens a file and gives what `ask` says of it. */
function asking<Answer>(
  path: string,
  ask: (snapshot: Snapshot) => Answer,
  options: OpenSnapshotOptions = {},
): Answer {
  const snapshot = openSnapshot(path, options);
  try {
    return ask(snapshot);
  } finally {
    snapshot.close();
    snapshot.close();
  }
}

/** All pages with content, by what threads are given. */
function contentOf({ fd, blocks }: Snapshot): Write[] {
  const content: Write[] = [];
  const bytes = new Uint8Array(TARGET_PAGE_BYTES);
  for (const [index, { data }] of blocks.entries()) {
    const block = openBlock(structuredClone(data));
    for (let page = block.hasContent.nextSet(0); page >= 0; page = block.hasContent.nextSet(page + 1)) {
      assert.equal(readSync(fd, bytes, 0, bytes.length, block.fileOffsetOf(page)), bytes.length);
      assert.ok(bytes.every((byte) => byte === bytes[0]));
      content.push([index, page, bytes[0] as number]);
    }
  }
  return content;
}

/** How many times the stream is read when the file is opened. */
function scansOf(path: string): number {
  let scans = 0;
  asking(path, () => {}, { onProgress: () => scans++ });
  return scans;
}

test('openSnapshot() reads what SnapshotWriter wrote', (t) => {
  const path = join(folderOf(t), 'a.snap');
  writeSnapshot(path, WRITES);
  asking(path, (snapshot) => {
    assert.equal(snapshot.format, 'mapped-ram');
    assert.equal(snapshot.machineType, MACHINE_TYPE);
    assert.equal(snapshot.uuid, undefined);
    assert.equal(snapshot.ramSectionId, RAM_SECTION_ID);
    assert.deepEqual(
      snapshot.blocks.map(({ idstr, lengthBytes, pageSizeBytes }) => ({ idstr, lengthBytes, pageSizeBytes })),
      BLOCKS,
    );
    assert.deepEqual(snapshot.deviceSections, DEVICE_SECTIONS);
    assert.deepEqual(snapshot.vmDescription, VM_DESCRIPTION);
    assert.deepEqual(contentOf(snapshot), contentAfter(WRITES));
    assert.equal(snapshot.blocks[0]?.fileOffsetOf(3), 2 ** 20 + 3 * TARGET_PAGE_BYTES);
  });
  assert.ok(!existsSync(indexPath(path)), 'needs no index');
});

test('openSnapshot() finds the last content of each page of a stream', (t) => {
  const path = fileOf(t, streamOf(...ROUNDS));
  asking(path, (snapshot) => {
    assert.equal(snapshot.format, 'stream');
    assert.equal(snapshot.machineType, MACHINE_TYPE);
    assert.equal(snapshot.ramSectionId, RAM_SECTION_ID);
    assert.deepEqual(snapshot.deviceSections, DEVICE_SECTIONS);
    assert.deepEqual(snapshot.vmDescription, VM_DESCRIPTION);
    assert.deepEqual(contentOf(snapshot), contentAfter(WRITES));
  });
});

test('both formats give what was written last, whatever was written', (t) => {
  const folder = folderOf(t);
  const write = fc.oneof(
    fc.tuple(fc.constant(0), fc.nat(79), fc.nat(255)),
    fc.tuple(fc.constant(1), fc.nat(2), fc.nat(255)),
  );
  fc.assert(
    fc.property(fc.array(fc.array(write, { maxLength: 20 }), { minLength: 1, maxLength: 3 }), (rounds) => {
      const mapped = join(folder, 'mapped');
      const stream = join(folder, 'stream');
      writeSnapshot(mapped, rounds.flat());
      writeFileSync(stream, streamOf(...rounds));
      assert.deepEqual(asking(mapped, contentOf), contentAfter(rounds.flat()));
      assert.deepEqual(asking(stream, contentOf), contentAfter(rounds.flat()));
      assert.deepEqual(asking(stream, contentOf), contentAfter(rounds.flat()), 'from the index');
    }),
    { numRuns: 50 },
  );
});

test('a stream that begins behind something of someone else is read where it begins', (t) => {
  const path = fileOf(t, concatenate(new Uint8Array(5000).fill(1), streamOf(...ROUNDS)));
  for (const time of ['first', 'from the index']) {
    assert.deepEqual(asking(path, contentOf, { offset: 5000 }), contentAfter(WRITES), time);
  }
  assert.throws(() => openSnapshot(path), { code: 'NOT_A_SNAPSHOT' });
  assert.throws(() => openSnapshot(path, { offset: 5001 }), { code: 'NOT_A_SNAPSHOT' });
});

test('a stream without a description, and with commands that do no harm, is whole', (t) => {
  const commands = concatenate(encodeCommand(MigrationCommand.OPEN_RETURN_PATH), encodeAdvise(4096, 4096));
  const bytes = concatenate(
    header(),
    commands,
    ramStart,
    ramEnd(records([[0, 3, 7]])),
    DEVICE_SECTIONS,
    fromHex('00'),
  );
  asking(fileOf(t, bytes), (snapshot) => {
    assert.equal(snapshot.vmDescription, undefined);
    assert.deepEqual(snapshot.deviceSections, DEVICE_SECTIONS);
    assert.deepEqual(contentOf(snapshot), [[0, 3, 7]]);
  });
});

test('the description of a newer QEMU begins with something else', (t) => {
  const json = Buffer.from(
    `{"configuration": {"fields": []}, ${Buffer.from(VM_DESCRIPTION).toString().slice(1)}`,
  );
  const record = concatenate(fromHex('00 06 00000000'), json);
  new DataView(record.buffer).setUint32(2, json.length);
  const bytes = concatenate(header(), ramStart, ramEnd(), DEVICE_SECTIONS, record);
  asking(fileOf(t, bytes), (snapshot) => {
    assert.deepEqual(Buffer.from(snapshot.vmDescription ?? []), json);
    assert.deepEqual(snapshot.deviceSections, DEVICE_SECTIONS);
  });
});

// ---- the index -----------------------------------------------------------------------------------------------

test('a stream is read through once, and its index believed until the file changes', (t) => {
  const path = fileOf(t, streamOf(...ROUNDS));
  assert.ok(scansOf(path) > 0);
  assert.equal(statSync(indexPath(path)).mode & 0o777, 0o600);
  assert.equal(scansOf(path), 0);
  asking(path, (snapshot) => {
    assert.equal(snapshot.format, 'stream');
    assert.equal(snapshot.machineType, MACHINE_TYPE);
    assert.equal(snapshot.ramSectionId, RAM_SECTION_ID);
    assert.deepEqual(snapshot.deviceSections, DEVICE_SECTIONS);
    assert.deepEqual(snapshot.vmDescription, VM_DESCRIPTION);
    assert.deepEqual(contentOf(snapshot), contentAfter(WRITES));
  });
  utimesSync(path, 1, 1);
  assert.ok(scansOf(path) > 0, 'modified at another time');
  assert.equal(scansOf(path), 0);
  writeFileSync(path, streamOf([[0, 0, 1]]));
  utimesSync(path, 1, 1);
  assert.deepEqual(asking(path, contentOf), [[0, 0, 1]], 'another length');
});

test('an index that is damaged in any byte, or cut anywhere, is made again', (t) => {
  const path = fileOf(t, streamOf(...ROUNDS));
  assert.ok(scansOf(path) > 0);
  const index = readFileSync(indexPath(path));
  for (let at = 0; at < index.length; at += 11) {
    const damaged = Uint8Array.from(index);
    damaged[at]! ^= 0x10;
    writeFileSync(indexPath(path), damaged);
    assert.ok(scansOf(path) > 0, `byte ${at}`);
    writeFileSync(indexPath(path), index.subarray(0, at));
    assert.ok(scansOf(path) > 0, `cut at ${at}`);
  }
  assert.deepEqual(readFileSync(indexPath(path)), index);
});

test('a stream file whose index cannot be kept is read every time', (t) => {
  const path = fileOf(t, streamOf(...ROUNDS));
  mkdirSync(indexPath(path));
  assert.ok(scansOf(path) > 0);
  assert.ok(scansOf(path) > 0);
  assert.deepEqual(asking(path, contentOf), contentAfter(WRITES));
});

// ---- what is refused -----------------------------------------------------------------------------------------

const start = concatenate(header(), ramStart);

const REFUSED: readonly (readonly [name: string, bytes: Uint8Array, code: string, message: RegExp])[] = [
  ['an empty file', new Uint8Array(), 'NOT_A_SNAPSHOT', /: it is empty$/],
  ['a program', fromHex('7f454c46 02010100'), 'NOT_A_SNAPSHOT', /: it is an ELF file/],
  ['a disk image', fromHex('514649fb 00000003'), 'NOT_A_SNAPSHOT', /: it is a disk image \(qcow2\)$/],
  [
    'a save file of libvirt',
    Buffer.from('LibvirtQemudSave'),
    'NOT_A_SNAPSHOT',
    /: it is a save file of libvirt/,
  ],
  [
    'a compressed file',
    fromHex('1f8b0800'),
    'NOT_A_SNAPSHOT',
    /: it is compressed \(gzip\); unpack it first$/,
  ],
  [
    'a text',
    Buffer.from('hello'),
    'NOT_A_SNAPSHOT',
    /: it is not a migration stream, which begins with "QEVM"$/,
  ],
  [
    'zeros',
    new Uint8Array(4096),
    'NOT_A_SNAPSHOT',
    /: it begins with zeros, as a snapshot does whose writing/,
  ],
  [
    'an old version',
    fromHex('5145564d 00000002 07'),
    'DAMAGED',
    /version of the migration stream.*\(stream byte 7\)$/,
  ],
  [
    'shared RAM that is elsewhere',
    concatenate(header('x-ignore-shared'), ramStart),
    'UNSUPPORTED',
    /switch the capability "x-ignore-shared" off at the source/,
  ],
  [
    'XBZRLE',
    concatenate(start, ramPart(fromHex('0000000000001040 06 70632e72616d 01 0003 000101'))),
    'UNSUPPORTED',
    /switch the capability "xbzrle" off at the source/,
  ],
  [
    'multifd',
    concatenate(start, ramPart(fromHex('0000000000000200'))),
    'UNSUPPORTED',
    /Pages went by other channels.*"multifd"/,
  ],
  [
    'a postcopy',
    concatenate(
      header(),
      encodeAdvise(4096, 4096),
      ramStart,
      encodePackagedHeader(4),
      encodeCommand(MigrationCommand.POSTCOPY_LISTEN),
    ),
    'UNSUPPORTED',
    /The migration went on as postcopy, and RAM was never whole in it \(stream byte \d+\)$/,
  ],
  ['COLO', concatenate(header(), encodeCommand(MigrationCommand.ENABLE_COLO)), 'UNSUPPORTED', /one of COLO/],
  [
    'a page outside its block',
    concatenate(start, ramPart(fromHex('0000000000050008 06 70632e72616d'))),
    'DAMAGED',
    /offset must be below 0x50000/,
  ],
  [
    'bytes behind the end',
    concatenate(streamOf(...ROUNDS), fromHex('01')),
    'DAMAGED',
    /1 bytes follow the end/,
  ],
  [
    'RAM beyond what the file can tell of',
    concatenate(
      header(),
      fromHex('01 00000002 03 72616d 00000000 00000004'),
      fromHex('0000100000000004 01 61 0000100000000000 0000000000000010 7e 00000002'),
    ),
    'UNSUPPORTED',
    /RAM of 4294967296 pages is announced, but the file has room for no more than/,
  ],
];

for (const [name, bytes, code, message] of REFUSED) {
  test(`openSnapshot() refuses ${name}`, (t) => {
    const path = fileOf(t, bytes);
    assert.throws(
      () => openSnapshot(path),
      (error: unknown) => {
        assert.ok(error instanceof SnapshotError);
        assert.match(error.message, message);
        assert.ok(error.message.startsWith(`Cannot read snapshot "${path}": `));
        assert.equal(error.code, code);
        return true;
      },
    );
    assert.ok(!existsSync(indexPath(path)));
  });
}

test('openSnapshot() refuses what is not there, or no file', (t) => {
  const folder = folderOf(t);
  assert.throws(() => openSnapshot(join(folder, 'none')), {
    code: 'SYSTEM',
    message: /no such file or directory \(ENOENT\)$/,
  });
  assert.throws(() => openSnapshot(folder), { code: 'NOT_A_SNAPSHOT', message: /: it is a directory$/ });
  assert.throws(() => openSnapshot('/dev/null'), {
    code: 'NOT_A_SNAPSHOT',
    message: /: it is not a regular file$/,
  });
});

/** Where a stream may end early and yet be whole: after EOF, the description being for tools only. */
const endsWhole = (bytes: Uint8Array, cut: number): boolean =>
  cut === bytes.length - 5 - VM_DESCRIPTION.length;

test('a stream that is cut anywhere says so, and where', (t) => {
  const bytes = streamOf([[0, 1, 1]], [[1, 2, 3]]);
  const path = fileOf(t, bytes);
  for (let cut = bytes.length - 1; cut > 0; cut--) {
    const isPage = cut % 97 !== 0 && bytes[cut - 1] === bytes[cut] && bytes[cut] === bytes[cut + 1];
    if (isPage) continue;
    truncateSync(path, cut);
    if (endsWhole(bytes, cut)) {
      assert.deepEqual(asking(path, contentOf), [
        [0, 1, 1],
        [1, 2, 3],
      ]);
      continue;
    }
    assert.throws(
      () => openSnapshot(path),
      { code: 'TRUNCATED', message: /ended .*\(stream byte \d+\)$|of the file, which has only/ },
      `cut at ${cut} of ${bytes.length}`,
    );
  }
});

test('a mapped-ram file that is cut anywhere says so, and where', (t) => {
  const path = join(folderOf(t), 'a.snap');
  writeSnapshot(path, WRITES);
  const fileBytes = statSync(path).size;
  const from = (first: number, count: number) => Array.from({ length: count }, (_, index) => first + index);
  const inPages = [2 ** 20, 2 ** 20 + 5000, 2 ** 21];
  for (const cut of [...from(fileBytes - 400, 400), ...inPages, ...from(1, 300)].sort((a, b) => b - a)) {
    truncateSync(path, cut);
    if (cut === fileBytes - 5 - VM_DESCRIPTION.length) {
      asking(path, contentOf);
      continue;
    }
    const message = inPages.includes(cut)
      ? /The pages of a RAM block end at byte \d+ of the file, which has only \d+ bytes \(stream byte \d+\)$/
      : /ended .*\(stream byte \d+\)$|of the file, which has only/;
    assert.throws(() => openSnapshot(path), { code: 'TRUNCATED', message }, `cut at ${cut} of ${fileBytes}`);
  }
});

test('a mapped-ram file with a page among its records contradicts itself', (t) => {
  const path = join(folderOf(t), 'a.snap');
  writeSnapshot(path, []);
  const fileBytes = statSync(path).size;
  truncateSync(path, fileBytes - tail.length - ramEnd().length);
  appendFileSync(path, concatenate(ramPart(records([[0, 1, 0]])), ramEnd(), tail));
  assert.throws(() => openSnapshot(path), {
    code: 'DAMAGED',
    message: /A page is among the records of a mapped-ram file/,
  });
});

test('no change to a file makes the reader fail in another way than by saying what is wrong', (t) => {
  const folder = folderOf(t);
  const paths = [join(folder, 'mapped'), join(folder, 'stream')] as const;
  writeSnapshot(paths[0], WRITES);
  writeFileSync(paths[1], streamOf(...ROUNDS));
  /** Around the head, the entry of the second block of the mapped-ram file, and the tail. */
  const placeIn = (fileBytes: number) =>
    fc.oneof(
      fc.nat(300),
      fc.nat(80).map((at) => Math.min(2 ** 20 + 80 * TARGET_PAGE_BYTES + at, fileBytes - 1)),
      fc.nat(600).map((at) => fileBytes - 1 - at),
    );
  for (const path of paths) {
    const original = readFileSync(path);
    const change = fc.tuple(placeIn(original.length), fc.nat(255));
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), (changes) => {
        const fd = openSync(path, 'r+');
        try {
          for (const [at, byte] of changes) writeSync(fd, Uint8Array.of(byte), 0, 1, at);
          asking(path, readAllContent);
        } catch (error) {
          if (!(error instanceof SnapshotError)) throw error;
        } finally {
          for (const [at] of changes) writeSync(fd, original, at, 1, at);
          closeSync(fd);
          rmSync(indexPath(path), { force: true });
        }
      }),
      { numRuns: 1000 },
    );
  }
});

/** Reads every page that the file says to have; they all must be in it. */
function readAllContent({ fd, blocks }: Snapshot): void {
  const bytes = new Uint8Array(TARGET_PAGE_BYTES);
  for (const { hasContent, fileOffsetOf } of blocks) {
    for (let page = hasContent.nextSet(0); page >= 0; page = hasContent.nextSet(page + 1)) {
      assert.equal(readSync(fd, bytes, 0, bytes.length, fileOffsetOf(page)), bytes.length);
    }
  }
}

test('a stream file that has begun to be written again is not the one that was indexed', (t) => {
  const path = fileOf(t, streamOf(...ROUNDS));
  assert.ok(scansOf(path) > 0);
  appendFileSync(
    path,
    written((writer) => writer.u8(1)),
  );
  assert.throws(() => openSnapshot(path), { code: 'DAMAGED' });
});
