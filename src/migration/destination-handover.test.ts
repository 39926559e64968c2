import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodePeerFeatures, PeerFeature } from '../wire/peer-features.ts';
import { RUN_SILENCE_MS, SOURCE_RECOVERY_SILENCE_MS } from './destination.ts';
import {
  advised,
  allPages,
  DestinationRig,
  devices,
  discard,
  eof,
  header,
  listen,
  openReturnPath,
  packaged,
  part,
  ping,
  ramEnd,
  run,
} from './destination-rig.ts';

const packageWithoutRun = packaged(listen, devices(), ping(3), ping(0x42));

/** The devices are loaded and RUN is awaited; page 1 of `pc.ram` is missing. */
function loaded(): DestinationRig {
  const rig = new DestinationRig();
  rig.receive(advised, allPages, discard(0, 1, 1), ping(2), packageWithoutRun);
  rig.engine.devicesLoaded(rig.nowMs);
  return rig;
}

test('DestinationMigration announces that it waits for RUN, before it answers anything', () => {
  const rig = new DestinationRig();
  rig.receive(header, openReturnPath, ping(1));
  const values = rig.messages.map((message) => (message.type === 'pong' ? message.value : Number.NaN));
  const features = PeerFeature.RUN_HANDSHAKE | PeerFeature.CHECKSUMS;
  assert.equal(decodePeerFeatures(values[0] as number), features);
  assert.equal(values[1], 1);
});

test('DestinationMigration runs the guest when RUN comes behind the package', () => {
  const rig = loaded();
  assert.deepEqual(rig.answers.slice(-2), ['pong 3', 'pong 66']);
  assert.equal(rig.engine.status, 'postcopy-device');
  assert.ok(!rig.effects.includes('resume'));
  rig.receive(run, ping(4));
  assert.equal(rig.engine.status, 'postcopy-active');
  assert.equal(rig.effects.at(-1), 'resume');
  assert.equal(rig.answers.at(-1), 'pong 4');
  rig.engine.guestResumed(undefined, rig.nowMs);
  rig.receive(part(0, { 1: 1 }), ramEnd, eof);
  assert.equal(rig.engine.status, 'completed');
});

test('DestinationMigration places what was asked for while the devices are loaded', () => {
  const rig = new DestinationRig();
  rig.receive(advised, allPages, discard(0, 1, 1), packageWithoutRun, part(0, { 1: 5 }));
  assert.equal(rig.effects.at(-1), 'place 5 at pc.ram 1');
  rig.engine.devicesLoaded(rig.nowMs);
  assert.ok(!rig.effects.includes('resume'));
  rig.receive(run);
  assert.equal(rig.effects.at(-1), 'resume');
});

test('DestinationMigration never runs a guest for which RUN did not come', () => {
  for (const end of [
    (rig: DestinationRig) => rig.engine.channelLost(new Error('cable'), rig.nowMs),
    (rig: DestinationRig) => rig.engine.channelLost(undefined, rig.nowMs),
    (rig: DestinationRig) => rig.receive(run.subarray(0, 4)) ?? rig.engine.channelLost(undefined, rig.nowMs),
    (rig: DestinationRig) => rig.engine.machineFailed(new Error('no'), rig.nowMs),
    (rig: DestinationRig) => rig.receive(part(0, { 1: 1 }), ramEnd, eof),
  ]) {
    const rig = loaded();
    end(rig);
    assert.equal(rig.engine.status, 'failed');
    assert.ok(rig.engine.isOver);
    assert.equal(rig.answers.at(-1), 'shut 1');
    rig.engine.devicesLoaded(rig.nowMs);
    assert.ok(!rig.effects.includes('resume'));
  }
});

test('DestinationMigration runs a guest only once, whatever the source says', () => {
  const twice = loaded();
  twice.receive(run, run);
  assert.equal(twice.engine.status, 'postcopy-paused');
  assert.match(twice.engine.error?.message ?? '', /POSTCOPY_RUN has no place here: it has come before/);
  const both = new DestinationRig();
  both.receive(advised, allPages, packaged(listen, devices(), run));
  both.engine.devicesLoaded(both.nowMs);
  both.receive(run);
  assert.equal(both.engine.status, 'postcopy-paused');
  assert.match(both.engine.error?.message ?? '', /Postcopy cannot go from "running" to "running"/);
  for (const rig of [twice, both])
    assert.equal(rig.effects.filter((effect) => effect === 'resume').length, 1);
});

test('DestinationMigration refuses RUN before the devices are loaded, and a package without LISTEN', () => {
  const early = new DestinationRig();
  early.receive(advised, allPages, packageWithoutRun, run);
  assert.equal(early.engine.status, 'failed');
  assert.match(early.engine.error?.message ?? '', /POSTCOPY_RUN came before the device state/);
  const deaf = new DestinationRig();
  deaf.receive(advised, allPages, packaged(devices(), ping(3), ping(0x42)));
  deaf.engine.devicesLoaded(deaf.nowMs);
  assert.equal(deaf.engine.status, 'failed');
  assert.match(deaf.engine.error?.message ?? '', /ended without POSTCOPY_LISTEN/);
});

test('DestinationMigration refuses a stream that ends before RUN, also while the devices are loaded', () => {
  const rig = new DestinationRig();
  rig.receive(advised, allPages, packageWithoutRun, ramEnd, eof);
  assert.equal(rig.engine.status, 'postcopy-device');
  rig.engine.devicesLoaded(rig.nowMs);
  assert.equal(rig.engine.status, 'failed');
  assert.match(rig.engine.error?.message ?? '', /end of the stream came before POSTCOPY_RUN/);
});

test('DestinationMigration does not wait for ever for a source that owes it RUN', () => {
  const rig = loaded();
  assert.equal(rig.engine.silenceLimitMs, RUN_SILENCE_MS);
  rig.receive(run);
  assert.equal(rig.engine.silenceLimitMs, Number.POSITIVE_INFINITY);
});

test('DestinationMigration waits for a source no longer than it is told to, unless that has nothing more to say', () => {
  const rig = new DestinationRig({ peerTimeoutMs: 5000 });
  assert.equal(rig.engine.silenceLimitMs, 5000);
  rig.receive(advised, allPages, discard(0, 1, 1), ping(2), packageWithoutRun);
  rig.engine.devicesLoaded(rig.nowMs);
  rig.engine.setPeerTimeout(7000);
  assert.equal(rig.engine.silenceLimitMs, 7000);
  rig.receive(run);
  rig.engine.guestResumed(undefined, rig.nowMs);
  assert.equal(rig.engine.silenceLimitMs, 7000);
  rig.engine.setPeerTimeout(60_000);
  rig.engine.channelLost(undefined, rig.nowMs);
  assert.equal(rig.engine.silenceLimitMs, Number.POSITIVE_INFINITY);
  rig.engine.recover(rig.nowMs);
  assert.equal(rig.engine.silenceLimitMs, SOURCE_RECOVERY_SILENCE_MS);
  assert.equal(
    new DestinationRig({ hasReturnPath: false, peerTimeoutMs: 5000 }).engine.silenceLimitMs,
    Number.POSITIVE_INFINITY,
  );
});
