import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PingValue } from '../wire/commands.ts';
import {
  encodePong,
  encodeRecvBitmap,
  encodeReqPages,
  encodeReqPagesId,
  encodeResumeAck,
  encodeShut,
} from '../wire/return-path.ts';
import { RECOVERY_SILENCE_MS } from './source.ts';
import { SourceRig } from './source-rig.ts';

const PAGE = 4096;
/** One page after the other, with a pong before the next: what is sent is known. */
const SLOW = { 'max-postcopy-bandwidth': 1 };

/** 8 pages of `pc.ram` and 3 of `rom`, all dirty at the switch; the first `sentPages` were sent on request. */
function interrupted(sentPages: number): SourceRig {
  const rig = new SourceRig({ blocks: { 'pc.ram': 8, rom: 3 }, parameters: SLOW, isRecoverable: true });
  rig.writeAll();
  rig.engine.start(rig.nowMs);
  rig.engine.startPostcopy();
  rig.sendAll();
  rig.writeAll(2);
  rig.engine.guestPaused(true);
  rig.engine.devicesSaved(Uint8Array.of(7), rig.nowMs);
  while (rig.engine.status !== 'postcopy-active') rig.send();
  rig.send();
  rig.engine.receive(encodePong(PingValue.IN_PACKAGE), rig.nowMs);
  for (let page = 0; page < sentPages; page++) {
    rig.request('pc.ram', page);
    rig.send();
  }
  rig.engine.channelLost(new Error('cable'), rig.nowMs);
  return rig;
}

const held = (idstr: string, pages: number) => encodeRecvBitmap(idstr, Uint8Array.of(2 ** pages - 1));

function recovered(sentPages: number, arrivedPages: number): SourceRig {
  const rig = interrupted(sentPages);
  rig.recover();
  rig.send();
  rig.engine.receive(held('pc.ram', arrivedPages), rig.nowMs);
  rig.engine.receive(held('rom', 0), rig.nowMs);
  rig.send();
  rig.engine.receive(encodeResumeAck(), rig.nowMs);
  return rig;
}

test('SourceMigration keeps everything when the connection is lost in postcopy, and sends nothing', () => {
  const rig = interrupted(2);
  const { engine } = rig;
  assert.ok(engine.isPaused && !engine.isOver && engine.isGuestElsewhere);
  assert.equal(engine.status, 'postcopy-paused');
  assert.match(
    engine.error?.message ?? '',
    /postcopy: cable\. .*at least 9 pages of it are only here.*migrate -r/,
  );
  assert.deepEqual(rig.sendAll(), []);
  assert.equal(engine.wakeAtMs(rig.nowMs), Number.POSITIVE_INFINITY);
  engine.receive(encodeShut(1), rig.nowMs);
  engine.channelLost(undefined, rig.nowMs);
  assert.match(engine.error?.message ?? '', /cable/, 'the first reason counts');
  assert.throws(() => engine.cancel(rig.nowMs), /cannot cancel.*recover it/);
  assert.throws(() => engine.pause(rig.nowMs), /only supported in state/);
  assert.ok(!rig.effects.includes('resume'));
  engine.close();
  assert.ok(engine.isOver);
});

test('SourceMigration asks for the bitmaps of all blocks, sends what has not arrived, and names its block', () => {
  const rig = interrupted(4);
  rig.recover();
  assert.deepEqual(rig.send(), ['recv-bitmap pc.ram', 'recv-bitmap rom']);
  rig.engine.receive(held('pc.ram', 2), rig.nowMs);
  assert.deepEqual(rig.send(), [], 'not before all have come');
  rig.engine.receive(held('rom', 0), rig.nowMs);
  assert.deepEqual(rig.send(), ['postcopy-resume']);
  assert.equal(rig.engine.status, 'postcopy-recover');
  assert.deepEqual(rig.send(), [], 'not before it is ready');
  rig.engine.receive(encodeResumeAck(), rig.nowMs);
  assert.equal(rig.engine.error, undefined);

  rig.engine.receive(encodeReqPagesId(5 * PAGE, PAGE, 'pc.ram'), rig.nowMs);
  rig.engine.receive(encodeReqPages(1 * PAGE, PAGE), rig.nowMs);
  assert.deepEqual(rig.send(), ['part', 'page pc.ram 5'], 'page 1 has arrived');
  rig.engine.setParameters({ ...rig.parameters, 'max-postcopy-bandwidth': 0 }, rig.nowMs);
  const rest: string[] = [];
  while (rig.engine.wakeAtMs(rig.nowMs) < Number.POSITIVE_INFINITY) {
    rest.push(...rig.send());
    rig.answerPings();
    rig.nowMs++;
  }
  assert.deepEqual(rest.filter((word) => word.startsWith('page')).sort(), [
    'page pc.ram 2',
    'page pc.ram 3',
    'page pc.ram 4',
    'page pc.ram 6',
    'page pc.ram 7',
    'page rom 0',
    'page rom 1',
    'page rom 2',
  ]);
  rig.sendAll();
  assert.deepEqual(rig.words.slice(-2), ['end', 'eof']);
  rig.engine.receive(encodeShut(0), rig.nowMs);
  assert.deepEqual(rig.statuses.slice(3), [
    'postcopy-active',
    'postcopy-paused',
    'postcopy-recover-setup',
    'postcopy-recover',
    'postcopy-active',
    'completed',
  ]);
});

test('SourceMigration tells how often and how long it was interrupted', () => {
  const rig = interrupted(1);
  assert.deepEqual(rig.engine.info(rig.nowMs + 10)['x-interruptions'], {
    count: 1,
    recovered: 0,
    'total-ms': 10,
    'last-at-ms': Math.round(rig.nowMs - 1000),
  });
  const after = recovered(1, 1);
  after.engine.channelLost(undefined, after.nowMs + 5);
  const told = after.engine.info(after.nowMs + 7)['x-interruptions'];
  assert.deepEqual([told?.count, told?.recovered, told?.['total-ms']], [2, 1, 2]);
  for (const name of [
    'postcopy_pause',
    'postcopy_pause_continued',
    'ram_dirty_bitmap_reload_complete',
  ] as const)
    assert.ok(after.traces.includes(name), name);
});

test('SourceMigration goes on when everything was sent and not all has arrived', () => {
  const rig = recovered(8, 8);
  rig.engine.setParameters({ ...rig.parameters, 'max-postcopy-bandwidth': 0 }, rig.nowMs);
  rig.sendAll();
  assert.deepEqual(rig.words.slice(-2), ['end', 'eof']);
  rig.engine.channelLost(undefined, rig.nowMs);
  assert.match(rig.engine.error?.message ?? '', /Every page has been sent.*If it says "completed"/);
  rig.recover();
  rig.send();
  rig.engine.receive(held('pc.ram', 8), rig.nowMs);
  rig.engine.receive(held('rom', 2), rig.nowMs);
  rig.engine.receive(encodeResumeAck(), rig.nowMs);
  assert.deepEqual(rig.sendAll(), ['postcopy-resume', 'part', 'page rom 2', 'ping n', 'end', 'eof']);
});

test('SourceMigration.recover() asks also where it is not known who has the guest: only who runs it answers', () => {
  const rig = new SourceRig({ isRecoverable: true });
  rig.writeAll();
  rig.switchToPostcopy();
  rig.engine.channelLost(undefined, rig.nowMs);
  assert.ok(!rig.engine.isGuestElsewhere);
  assert.match(
    rig.engine.error?.message ?? '',
    /look there.*"cont" only if it does not\. If it does, recover/,
  );
  rig.recover();
  rig.send();
  rig.engine.receive(encodeRecvBitmap('pc.ram', Uint8Array.of(0)), rig.nowMs);
  assert.ok(rig.engine.isGuestElsewhere);
  rig.engine.receive(encodeResumeAck(), rig.nowMs);
  assert.equal(rig.engine.status, 'postcopy-active');
});

test('SourceMigration.recover() is refused in any other state', () => {
  const rig = new SourceRig({ isRecoverable: true });
  assert.throws(() => rig.engine.recover(rig.nowMs), /no paused migration/);
  rig.switchToPostcopy();
  assert.throws(() => rig.engine.recover(rig.nowMs), /no paused migration/);
  const final = new SourceRig();
  final.switchToPostcopy();
  final.engine.channelLost(undefined, final.nowMs);
  assert.ok(final.engine.isOver, 'one that cannot be recovered is over');
  assert.throws(() => final.engine.recover(final.nowMs), /no paused migration/);
});

/** What a wrong peer says in a recovery, and why it is not believed. */
const REFUSED: readonly (readonly [string, readonly Uint8Array[], RegExp])[] = [
  ['a block that is not ours', [held('vga', 1)], /"vga": there is no such block/],
  ['a bitmap that comes twice', [held('rom', 0), held('rom', 0)], /"rom": it came twice/],
  ['a bitmap of another length', [encodeRecvBitmap('rom', new Uint8Array(9))], /at most 8, got 16/],
  ['a page that never left here', [held('rom', 2)], /page at 0, which never left here; .*another migration/],
  [
    'a wrong end mark',
    [held('rom', 0).map((byte, at, all) => (at === all.length - 1 ? 0 : byte))],
    /End mark/,
  ],
  ['an acknowledgement before its time', [held('rom', 0), encodeResumeAck()], /"resume-ack" has no place/],
  ['the end', [encodeShut(0)], /before it can be/],
  ['failure', [encodeShut(1)], /reports failure/],
];

for (const [what, messages, why] of REFUSED) {
  test(`SourceMigration is paused again by ${what}, and recovers with the next connection`, () => {
    const rig = interrupted(3);
    rig.recover();
    rig.send();
    for (const message of messages) rig.engine.receive(message, rig.nowMs);
    assert.equal(rig.engine.status, 'postcopy-paused');
    assert.match(rig.engine.error?.message ?? '', /^Recovery failed: /);
    assert.match(rig.engine.error?.message ?? '', why);
    rig.recover();
    assert.deepEqual(rig.send(), ['recv-bitmap pc.ram', 'recv-bitmap rom']);
    rig.engine.receive(Buffer.concat([held('pc.ram', 3), held('rom', 0)]), rig.nowMs);
    rig.engine.receive(encodeResumeAck(), rig.nowMs);
    assert.equal(rig.engine.status, 'postcopy-active');
  });
}

test('SourceMigration refuses messages of a recovery outside one', () => {
  for (const message of [held('pc.ram', 0), encodeResumeAck()]) {
    const rig = new SourceRig({ isRecoverable: true });
    rig.switchToPostcopy();
    rig.engine.receive(message, rig.nowMs);
    assert.equal(rig.engine.status, 'postcopy-paused');
    assert.match(rig.engine.error?.message ?? '', /has no place in state "postcopy-active"/);
  }
});

test('SourceMigration does not wait for ever for a peer that says nothing', () => {
  const rig = interrupted(1);
  rig.recover();
  rig.send();
  assert.equal(rig.engine.wakeAtMs(rig.nowMs), rig.nowMs + RECOVERY_SILENCE_MS);
  rig.nowMs += RECOVERY_SILENCE_MS;
  assert.deepEqual(rig.send(), []);
  assert.equal(rig.engine.status, 'postcopy-paused');
  assert.match(rig.engine.error?.message ?? '', /nothing was heard for 30 s/);
});

test('SourceMigration.pause() breaks off postcopy, and a recovery', () => {
  const rig = recovered(1, 1);
  rig.engine.pause(rig.nowMs);
  assert.match(rig.engine.error?.message ?? '', /broken off by migrate-pause/);
  rig.recover();
  rig.engine.pause(rig.nowMs);
  assert.equal(rig.engine.status, 'postcopy-paused');
  const precopy = new SourceRig({ isRecoverable: true });
  precopy.engine.start(precopy.nowMs);
  assert.throws(() => precopy.engine.pause(precopy.nowMs), /not in "setup"/);
});
