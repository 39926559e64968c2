import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  advised,
  allPages,
  askBitmap,
  DestinationRig,
  discard,
  eof,
  header,
  part,
  ping,
  ramEnd,
  resume,
  wholePackage,
} from './destination-rig.ts';

/** The guest runs; pages 1 and 2 of `pc.ram` are missing. The connection is lost. */
function interrupted(): DestinationRig {
  const rig = new DestinationRig();
  rig.receive(advised, allPages, discard(0, 1, 2), ping(2), wholePackage);
  rig.engine.devicesLoaded(rig.nowMs);
  rig.engine.guestResumed(undefined, rig.nowMs);
  rig.engine.channelLost(new Error('cable'), rig.nowMs);
  rig.effects.length = 0;
  rig.messages.length = 0;
  return rig;
}

test('DestinationMigration says what is here, and goes on with what is missing', () => {
  const rig = interrupted();
  assert.ok(rig.engine.isPaused && !rig.engine.isOver);
  assert.match(rig.engine.error?.message ?? '', /postcopy: cable\. .*one of 2 pages.*migrate_recover here/);
  rig.recover();
  rig.receive(askBitmap(0), askBitmap(1));
  assert.deepEqual(rig.answers, [
    'recv-bitmap pc.ram 0900000000000000',
    'recv-bitmap vga.vram 0300000000000000',
  ]);
  assert.equal(rig.engine.status, 'postcopy-recover');
  assert.deepEqual(rig.effects, []);
  rig.receive(resume);
  assert.deepEqual(rig.answers.slice(2), ['resume-ack']);
  assert.deepEqual(rig.effects, ['request again']);
  assert.equal(rig.engine.error, undefined);

  rig.receive(part(0, { 2: 3, 1: 0 }), ping(9), ramEnd, eof);
  assert.deepEqual(rig.answers.slice(3), ['pong 9', 'shut 0']);
  assert.deepEqual(rig.statuses.slice(3), [
    'postcopy-active',
    'postcopy-paused',
    'postcopy-recover',
    'postcopy-active',
    'completed',
  ]);
});

test('DestinationMigration is interrupted in the middle of a page, and asks for it again', () => {
  const rig = interrupted();
  rig.recover();
  rig.receive(askBitmap(0), resume, part(0, { 1: 1, 2: 2 }).subarray(0, 6000));
  rig.engine.channelLost(undefined, rig.nowMs);
  assert.equal(rig.engine.status, 'postcopy-paused');
  rig.recover();
  rig.receive(askBitmap(0));
  assert.equal(rig.answers.at(-1), 'recv-bitmap pc.ram 0b00000000000000', 'page 1 is whole, page 2 is not');
  rig.receive(resume, part(0, { 2: 2 }), ramEnd, eof);
  assert.equal(rig.engine.status, 'completed');
});

test('DestinationMigration tells how often and how long it was interrupted', () => {
  const rig = interrupted();
  rig.nowMs += 7;
  rig.recover();
  rig.receive(askBitmap(0), askBitmap(1), resume);
  assert.deepEqual(rig.engine.info(rig.nowMs)['x-interruptions'], {
    count: 1,
    recovered: 1,
    'total-ms': 7,
    'last-at-ms': 0,
  });
  for (const name of ['postcopy_pause_incoming', 'postcopy_pause_incoming_continued'] as const)
    assert.ok(rig.traces.includes(name), name);
});

/** What somebody sends who is not the source of this migration. */
const REFUSED: readonly (readonly [string, readonly Uint8Array[], RegExp])[] = [
  ['a new migration', [header], /A new migration begins here \(QEVM\)/],
  ['pages before POSTCOPY_RESUME', [askBitmap(0), part(0, { 1: 1 })], /A page came before POSTCOPY_RESUME/],
  ['an end before POSTCOPY_RESUME', [ramEnd, eof], /end of the stream came before POSTCOPY_RESUME/],
  ['something else', [Buffer.from('GET / HTTP/1.1')], /Unknown section type 0x47/],
];

for (const [what, pieces, why] of REFUSED) {
  test(`DestinationMigration is paused again by ${what}, and recovers with the next connection`, () => {
    const rig = interrupted();
    rig.recover();
    rig.receive(...pieces);
    assert.equal(rig.engine.status, 'postcopy-paused');
    assert.match(rig.engine.error?.message ?? '', /^Recovery failed: /);
    assert.match(rig.engine.error?.message ?? '', why);
    assert.ok(!rig.answers.some((answer) => answer.startsWith('shut')), 'the migration is not over');
    rig.recover();
    rig.receive(askBitmap(0), askBitmap(1), resume, part(0, { 1: 1, 2: 2 }), ramEnd, eof);
    assert.equal(rig.engine.status, 'completed');
  });
}

test('DestinationMigration refuses commands of a recovery outside one', () => {
  for (const command of [askBitmap(0), resume]) {
    const rig = interrupted();
    rig.recover();
    rig.receive(askBitmap(0), resume, command);
    assert.equal(rig.engine.status, 'postcopy-paused');
    assert.match(rig.engine.error?.message ?? '', /has no place in state "postcopy-active"/);
  }
});

test('DestinationMigration.recover() is refused unless postcopy is paused, and the guest was resumed', () => {
  const rig = new DestinationRig();
  assert.throws(() => rig.engine.recover(rig.nowMs), /only be run when postcopy is paused/);
  assert.throws(() => rig.engine.pause(rig.nowMs), /not in "active"/);

  const broken = new DestinationRig();
  broken.receive(advised, allPages, discard(0, 1, 2), ping(2), wholePackage);
  broken.engine.devicesLoaded(broken.nowMs);
  broken.engine.machineFailed(new Error('no'), broken.nowMs);
  assert.equal(broken.engine.status, 'postcopy-paused');
  assert.throws(() => broken.engine.recover(broken.nowMs), /The guest could not be resumed here: no/);
});

test('DestinationMigration says what the machine says, where the connection was lost before', () => {
  const rig = new DestinationRig();
  rig.receive(advised, allPages, discard(0, 1, 2), ping(2), wholePackage);
  rig.engine.devicesLoaded(rig.nowMs);
  rig.engine.channelLost(new Error('cable'), rig.nowMs);
  assert.match(rig.engine.error?.message ?? '', /recover the migration/);
  rig.engine.machineFailed(new Error('no'), rig.nowMs);
  assert.equal(rig.engine.status, 'postcopy-paused');
  assert.equal(rig.engine.error?.message, 'The guest could not be resumed here: no');
});

test('DestinationMigration.pause() breaks off postcopy, and a recovery', () => {
  const rig = interrupted();
  assert.throws(() => rig.engine.pause(rig.nowMs), /not in "postcopy-paused"/);
  rig.recover();
  rig.engine.pause(rig.nowMs);
  assert.equal(rig.engine.status, 'postcopy-paused');
  rig.recover();
  rig.receive(askBitmap(0), askBitmap(1), resume);
  rig.engine.pause(rig.nowMs);
  assert.match(rig.engine.error?.message ?? '', /broken off by migrate-pause/);
});
