import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodePong } from '../wire/return-path.ts';
import { BEAT_MS, PeerWatch } from './peer-watch.ts';
import { SourceRig } from './source-rig.ts';

const TIMEOUT_MS = 5000;
const parameters = { 'x-peer-timeout': TIMEOUT_MS, 'max-postcopy-bandwidth': 1 };

/** The guest is at the destination, which has answered everything; so little may be pushed that nothing is for long. */
function inPostcopy(): SourceRig {
  const rig = new SourceRig({ parameters, isRecoverable: true, isPeerWatched: true }).writeAll();
  rig.engine.start(rig.nowMs);
  rig.engine.startPostcopy();
  rig.send();
  rig.nowMs += 1001;
  rig.send();
  rig.engine.guestPaused(true);
  rig.engine.devicesSaved(Uint8Array.of(7), rig.nowMs);
  while (rig.send().length > 0) {}
  assert.equal(rig.engine.status, 'postcopy-active');
  rig.answerPings();
  return rig;
}

test('PeerWatch asks once, and gives up a peer that owes something', () => {
  const watch = new PeerWatch();
  watch.begin(100);
  assert.equal(watch.beatAtMs, 100 + BEAT_MS);
  assert.equal(watch.givesUpAtMs(TIMEOUT_MS, false), Number.POSITIVE_INFINITY);
  assert.equal(watch.givesUpAtMs(TIMEOUT_MS, true), 100 + TIMEOUT_MS);
  watch.asked();
  watch.took(200);
  assert.equal(watch.beatAtMs, Number.POSITIVE_INFINITY);
  assert.equal(watch.givesUpAtMs(TIMEOUT_MS, false), 200 + TIMEOUT_MS);
  watch.heard(300);
  assert.equal(watch.beatAtMs, 300 + BEAT_MS);
  assert.equal(watch.givesUpAtMs(TIMEOUT_MS, false), Number.POSITIVE_INFINITY);
});

test('SourceMigration asks a destination that it has nothing to say to whether it is there, again and again', () => {
  const rig = inPostcopy();
  for (let beat = 0; beat < 10; beat++) {
    assert.equal(rig.engine.wakeAtMs(rig.nowMs), rig.nowMs + BEAT_MS);
    assert.deepEqual(rig.send(), []);
    rig.nowMs += BEAT_MS;
    const [word, ...others] = rig.send();
    assert.equal(word, 'ping n');
    assert.deepEqual(others, []);
    assert.deepEqual(rig.send(), []);
    rig.answerPings();
  }
  assert.equal(rig.engine.status, 'postcopy-active');
});

test('SourceMigration pauses when the destination does not answer any more', () => {
  const rig = inPostcopy();
  rig.nowMs += BEAT_MS;
  rig.send();
  rig.nowMs += TIMEOUT_MS - 1;
  assert.deepEqual(rig.send(), []);
  assert.equal(rig.engine.wakeAtMs(rig.nowMs), rig.nowMs + 1);
  rig.nowMs += 1;
  rig.send();
  assert.equal(rig.engine.status, 'postcopy-paused');
  assert.match(
    rig.engine.error?.message ?? '',
    /nothing was heard of the destination for 5 s \(parameter x-peer-timeout\)/,
  );
});

test('SourceMigration gives up a destination that takes nothing, and runs its guest on', () => {
  const rig = new SourceRig({ parameters, isPeerWatched: true }).writeAll();
  rig.engine.start(rig.nowMs);
  assert(rig.engine.fill(new Uint8Array(64 * 1024), rig.nowMs) > 0);
  assert.equal(rig.engine.givesUpAtMs, rig.nowMs + TIMEOUT_MS);
  rig.nowMs += TIMEOUT_MS;
  rig.engine.checkTime(rig.nowMs);
  assert.equal(rig.engine.status, 'failed');
  assert.match(
    rig.engine.error?.message ?? '',
    /before the guest was handed over: nothing was heard .* for 5 s/,
  );
});

test('SourceMigration does not wait for ever to hear how a precopy went', () => {
  const rig = new SourceRig({ parameters, isPostcopyOn: false, isPeerWatched: true }).writeAll();
  rig.engine.start(rig.nowMs);
  while (!rig.effects.includes('pause')) {
    rig.send();
    rig.answerPings();
    rig.nowMs++;
  }
  rig.engine.guestPaused(true);
  rig.send();
  rig.engine.devicesSaved(Uint8Array.of(7), rig.nowMs);
  while (rig.send().length > 0) {}
  assert.equal(rig.engine.status, 'device');
  rig.nowMs = rig.engine.wakeAtMs(rig.nowMs);
  rig.send();
  assert.equal(rig.engine.status, 'failed');
  assert.match(rig.engine.error?.message ?? '', /nothing was heard .*It may run the guest: look there/);
});

test('SourceMigration lets a destination be silent that it was not told to watch', () => {
  const rig = new SourceRig({ isRecoverable: true }).writeAll();
  rig.switchToPostcopy();
  while (rig.send().length > 0) {}
  rig.answerPings();
  while (rig.send().length > 0) {}
  assert.equal(rig.engine.wakeAtMs(rig.nowMs), Number.POSITIVE_INFINITY);
  rig.engine.receive(encodePong(1), rig.nowMs);
  assert.equal(rig.engine.givesUpAtMs, Number.POSITIVE_INFINITY);
});
