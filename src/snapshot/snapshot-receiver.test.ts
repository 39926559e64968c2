import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { mapAnonymous } from '../linux/memory.ts';
import { encodeCommand, encodePackagedHeader, encodePing, MigrationCommand } from '../wire/commands.ts';
import { advise, concatenate, fromHex } from '../wire/example-stream.ts';
import { MIN_STREAM_BUFFER_BYTES } from '../wire/stream-decoder.ts';
import {
  BLOCKS,
  contentAfter,
  DEVICE_SECTIONS,
  folderOf,
  header,
  MACHINE_TYPE,
  pageOf,
  RAM_SECTION_ID,
  ramEnd,
  ramPart,
  ramStart,
  records,
  streamOf,
  tail,
  VM_DESCRIPTION,
  type Write,
} from './example-file.ts';
import { openSnapshot } from './open-snapshot.ts';
import { SnapshotReceiver } from './snapshot-receiver.ts';

const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000);

interface Received {
  readonly receiver: SnapshotReceiver;
  readonly path: string;
  /** What was sent back. */
  readonly answers: Uint8Array[];
  feed(bytes: Uint8Array): void;
}

function startReceiver(t: TestContext, hasReturnPath = true): Received {
  const path = join(folderOf(t), 'a.snap');
  const buffer = mapAnonymous(MIN_STREAM_BUFFER_BYTES);
  const answers: Uint8Array[] = [];
  const receiver = new SnapshotReceiver({
    ...{ path, overwrite: false, buffer: buffer.bytes, hasReturnPath },
    sendReturnPath: (message) => answers.push(message),
  });
  t.after(() => {
    receiver.abandon();
    buffer.unmap();
  });
  const feed = (bytes: Uint8Array) => {
    for (let position = 0; position < bytes.length; ) {
      const free = receiver.free();
      const some = bytes.subarray(position, position + free.length);
      free.set(some);
      receiver.received(some.length);
      position += some.length;
    }
  };
  return { receiver, path, answers, feed };
}

/** The pages of a snapshot that are not zero, as `contentAfter()` gives them; each must be filled with one byte. */
function contentOf(path: string): Write[] {
  const snapshot = openSnapshot(path);
  const bytes = readFileSync(path);
  const content: Write[] = [];
  for (const [index, block] of snapshot.blocks.entries()) {
    for (let page = block.hasContent.nextSet(0); page >= 0; page = block.hasContent.nextSet(page + 1)) {
      const offset = block.fileOffsetOf(page);
      const fill = bytes[offset] as number;
      assert.deepEqual(new Uint8Array(bytes.subarray(offset, offset + 4096)), pageOf(fill));
      content.push([index, page, fill]);
    }
  }
  snapshot.close();
  return content;
}

const FIRST: Write[] = [
  [0, 0, 1],
  [0, 1, 2],
  [0, 2, 0],
  [0, 79, 3],
  [1, 2, 4],
];
const SECOND: Write[] = [
  [0, 1, 0],
  [0, 2, 5],
  [1, 2, 6],
  [1, 2, 7],
];

test('SnapshotReceiver makes a snapshot of a stream, and its last word on each page counts', (t) => {
  const { receiver, path, feed } = startReceiver(t);
  feed(streamOf(FIRST, SECOND, [[0, 3, 8]]));
  assert.equal(receiver.isComplete, true);
  assert.equal(existsSync(path), false);
  assert.deepEqual(receiver.finish(), {
    machineType: MACHINE_TYPE,
    ramBytes: 83 * 4096,
    contentBytes: 5 * 4096,
    deviceBytes: DEVICE_SECTIONS.length,
  });
  assert.deepEqual(readdirSync(dirname(path)), ['a.snap']);
  assert.deepEqual(contentOf(path), contentAfter([...FIRST, ...SECOND, [0, 3, 8]]));
  const snapshot = openSnapshot(path);
  assert.equal(snapshot.format, 'mapped-ram');
  assert.equal(snapshot.machineType, MACHINE_TYPE);
  assert.equal(snapshot.ramSectionId, RAM_SECTION_ID);
  assert.deepEqual(
    snapshot.blocks.map(({ idstr }) => idstr),
    BLOCKS.map(({ idstr }) => idstr),
  );
  assert.deepEqual(new Uint8Array(snapshot.deviceSections), new Uint8Array(DEVICE_SECTIONS));
  assert.deepEqual(new Uint8Array(snapshot.vmDescription!), new Uint8Array(VM_DESCRIPTION));
  snapshot.close();
});

test(`SnapshotReceiver writes the same file however the stream is cut (SEED=${seed})`, (t) => {
  const stream = streamOf(FIRST, SECOND);
  const whole = startReceiver(t);
  whole.feed(stream);
  whole.receiver.finish();
  let state = seed >>> 0;
  for (let round = 0; round < 20; round++) {
    const { receiver, path, feed } = startReceiver(t);
    for (let position = 0; position < stream.length; ) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      const lengthBytes = 1 + (state % (round < 10 ? 5000 : 90));
      assert.equal(receiver.isComplete, false);
      feed(stream.subarray(position, position + lengthBytes));
      position += lengthBytes;
    }
    assert.equal(receiver.isComplete, true);
    receiver.finish();
    assert(readFileSync(path).equals(readFileSync(whole.path)));
  }
});

test('SnapshotReceiver applies deltas to what the page was, also if that came just before', (t) => {
  const { receiver, path, feed } = startReceiver(t);
  const delta = (offset: string, bytes: Uint8Array) => {
    const length = bytes.length.toString(16).padStart(4, '0');
    return concatenate(fromHex(`${offset} 06 70632e72616d 01 ${length}`), bytes);
  };
  feed(
    concatenate(
      ...[header(), ramStart],
      ramPart(concatenate(records([[0, 0, 9]]), delta('0000000000000040', fromHex('04 02 bbcc')))),
      ramPart(delta('0000000000005040', fromHex('02 01 aa'))),
      ...[ramEnd(), tail],
    ),
  );
  assert.equal(receiver.counts.xbzrlePages, 2);
  receiver.finish();
  const snapshot = openSnapshot(path);
  const bytes = readFileSync(path);
  const at = (page: number) => snapshot.blocks[0]!.fileOffsetOf(page);
  const first = pageOf(9);
  first.set([0xbb, 0xcc], 4);
  assert.deepEqual(new Uint8Array(bytes.subarray(at(0), at(0) + 4096)), first);
  const fifth = new Uint8Array(4096);
  fifth[2] = 0xaa;
  assert.deepEqual(new Uint8Array(bytes.subarray(at(5), at(5) + 4096)), fifth);
  snapshot.close();
});

test('SnapshotReceiver takes the devices of a background snapshot behind the last part of RAM', (t) => {
  const { receiver, path, feed } = startReceiver(t);
  feed(concatenate(header(), ramStart, ramPart(records(FIRST)), tail));
  assert.equal(receiver.isReturnPathOpen, false);
  receiver.ended();
  receiver.finish();
  assert.deepEqual(contentOf(path), contentAfter(FIRST));
});

test('SnapshotReceiver answers each PING once the return path is open', (t) => {
  const { receiver, answers, feed } = startReceiver(t);
  feed(concatenate(header(), encodeCommand(MigrationCommand.OPEN_RETURN_PATH), encodePing(1), ramStart));
  assert.equal(receiver.isReturnPathOpen, true);
  assert.deepEqual(
    answers.map((answer) => Buffer.from(answer).toString('hex')),
    ['0002000400000001'],
  );
});

test('SnapshotReceiver takes a stream without a description when the source has closed', (t) => {
  const { receiver, path, feed } = startReceiver(t);
  feed(concatenate(header(), ramStart, ramEnd(records(FIRST)), DEVICE_SECTIONS, Uint8Array.of(0)));
  assert.equal(receiver.isComplete, false);
  receiver.ended();
  receiver.finish();
  const snapshot = openSnapshot(path);
  assert.equal(snapshot.vmDescription, undefined);
  assert.deepEqual(new Uint8Array(snapshot.deviceSections), new Uint8Array(DEVICE_SECTIONS));
  snapshot.close();
});

test('SnapshotReceiver leaves no file of a stream that ends too early, wherever', (t) => {
  const stream = streamOf(FIRST, SECOND);
  const step = Math.ceil(stream.length / 60);
  const shortest = stream.length - tail.length + DEVICE_SECTIONS.length + 1;
  for (let end = 0; end < stream.length; end += end < shortest - 40 ? step : 7) {
    const { receiver, path, feed } = startReceiver(t);
    feed(stream.subarray(0, end));
    if (end === shortest) continue; // just without its description
    assert.throws(() => receiver.ended(), { code: 'TRUNCATED' }, `cut at ${end}`);
    receiver.abandon();
    assert.deepEqual(readdirSync(dirname(path)), []);
  }
});

const begun = concatenate(header(), ramStart);
const REFUSED: readonly { what: string; stream: Uint8Array; message: RegExp }[] = [
  {
    what: 'nothing of a migration',
    stream: fromHex('48545450 2f312e31'),
    message: /magic|migration stream/i,
  },
  {
    what: 'shared memory that is left out',
    stream: concatenate(header('x-ignore-shared'), ramStart),
    message: /"x-ignore-shared" on/,
  },
  {
    what: 'a mapped-ram file',
    stream: concatenate(header('mapped-ram'), ramStart),
    message: /"mapped-ram" on/,
  },
  {
    what: 'a PING before the return path is open',
    stream: concatenate(header(), encodePing(1)),
    message: /PING has no place here: no return path is open/,
  },
  {
    what: 'a switch to postcopy',
    stream: concatenate(header(), advise, ramStart, encodePackagedHeader(10)),
    message: /switched to postcopy/,
  },
  {
    what: 'COLO',
    stream: concatenate(header(), encodeCommand(MigrationCommand.ENABLE_COLO)),
    message: /"x-colo" on/,
  },
  {
    what: 'multifd',
    stream: concatenate(begun, ramPart(fromHex('0000000000000200'))),
    message: /"multifd" on/,
  },
  {
    what: 'a page outside its block',
    stream: concatenate(begun, ramPart(fromHex('0000000000050002 06 70632e72616d 00'))),
    message: /offset must be below 0x50000/,
  },
  {
    what: 'bytes behind the end',
    stream: concatenate(streamOf(FIRST), Uint8Array.of(0)),
    message: /follow the end of the stream/,
  },
];

for (const { what, stream, message } of REFUSED) {
  test(`SnapshotReceiver refuses ${what}`, (t) => {
    const { feed } = startReceiver(t);
    // The end comes in a piece of its own.
    assert.throws(
      () => {
        feed(stream.subarray(0, -1));
        feed(stream.subarray(-1));
      },
      { name: 'StreamError', message },
    );
  });
}

test('SnapshotReceiver refuses a PING over a connection that takes no answer', (t) => {
  const { feed } = startReceiver(t, false);
  feed(header());
  feed(encodeCommand(MigrationCommand.OPEN_RETURN_PATH));
  assert.throws(() => feed(encodePing(1)), { name: 'StreamError', message: /PING answered/ });
});

test('SnapshotReceiver says which file it cannot write', (t) => {
  const first = startReceiver(t);
  first.feed(streamOf(FIRST));
  first.receiver.finish();
  const buffer = mapAnonymous(MIN_STREAM_BUFFER_BYTES);
  const second = new SnapshotReceiver({
    ...{ path: first.path, overwrite: false, buffer: buffer.bytes, hasReturnPath: false },
    sendReturnPath: () => {},
  });
  second.free().set(header());
  second.received(header().length);
  second.free().set(ramStart);
  assert.throws(() => second.received(ramStart.length), { code: 'EXISTS' });
});
