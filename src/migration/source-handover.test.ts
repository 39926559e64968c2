import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PingValue } from '../wire/commands.ts';
import { encodePeerFeatures, PeerFeature } from '../wire/peer-features.ts';
import { encodePong, encodeRecvBitmap, encodeResumeAck, encodeShut } from '../wire/return-path.ts';
import { SourceRig } from './source-rig.ts';

const LOADED = encodePong(PingValue.PACKAGE_LOADED);

/** The destination has got the package, which does not hold RUN; every page is still here. */
function packageSent(options: ConstructorParameters<typeof SourceRig>[0] = {}): SourceRig {
  const rig = new SourceRig({ isRecoverable: true, ...options });
  rig.writeAll();
  rig.sendPackage();
  return rig;
}

/** RUN has left, and nothing shows yet that it has arrived. */
function runSent(): SourceRig {
  const rig = packageSent();
  rig.engine.receive(encodePong(PingValue.IN_PACKAGE), rig.nowMs);
  rig.engine.receive(LOADED, rig.nowMs);
  rig.send();
  return rig;
}

function assertTakenBack(rig: SourceRig, status: 'failed' | 'cancelled'): void {
  assert.equal(rig.engine.status, status);
  assert.ok(rig.engine.isOver && !rig.engine.isGuestElsewhere);
  assert.equal(rig.effects.at(-1), 'resume');
  assert.deepEqual(rig.sendAll(), [], 'RUN never leaves');
  assert.ok(!rig.words.includes('postcopy-run'));
}

test('SourceMigration holds RUN back until the destination has loaded the package, and pushes nothing before', () => {
  const rig = packageSent();
  assert.deepEqual(rig.words.slice(rig.words.indexOf('packaged [')), [
    'packaged [',
    '  postcopy-listen',
    '  full globalstate',
    '  full rig',
    '  ping 3',
    '  ping 66',
    ']',
  ]);
  assert.equal(rig.engine.status, 'postcopy-device');
  assert.deepEqual(rig.send(), []);
  rig.engine.receive(encodePong(PingValue.IN_PACKAGE), rig.nowMs);
  assert.deepEqual(rig.send(), [], 'that is not all of it');
  assert.equal(rig.engine.info(rig.nowMs).downtime, undefined, 'the guest has not left');
  rig.engine.receive(LOADED, rig.nowMs);
  assert.deepEqual(rig.send(), ['postcopy-run', 'ping 4', 'part', 'page pc.ram 0'].slice(0, 2));
  assert.equal(rig.engine.status, 'postcopy-active');
  assert.ok(rig.sendAll().includes('page pc.ram 0'));
  rig.engine.receive(encodeShut(0), rig.nowMs);
  assert.deepEqual(rig.statuses, [
    'setup',
    'active',
    'device',
    'postcopy-device',
    'postcopy-active',
    'completed',
  ]);
});

test('SourceMigration sends what loading the devices touches, and names its block', () => {
  const rig = packageSent({ blocks: { 'pc.ram': 4 } });
  rig.request('pc.ram', 2);
  assert.deepEqual(rig.send(), ['part', 'page pc.ram 2']);
  assert.deepEqual(rig.send(), []);
  rig.engine.receive(LOADED, rig.nowMs);
  rig.send();
  const pages = rig.sendAll().filter((word) => word.startsWith('page'));
  assert.deepEqual(pages.sort(), ['page pc.ram 0', 'page pc.ram 1', 'page pc.ram 3']);
});

test('SourceMigration takes the guest back whatever ends the connection before RUN has left', () => {
  for (const end of [
    (rig: SourceRig) => rig.engine.channelLost(new Error('reset'), rig.nowMs),
    (rig: SourceRig) => rig.engine.channelLost(undefined, rig.nowMs),
    (rig: SourceRig) => rig.engine.receive(encodeShut(1), rig.nowMs),
    (rig: SourceRig) => rig.engine.receive(encodeShut(0), rig.nowMs),
    (rig: SourceRig) => rig.engine.receive(Uint8Array.of(0, 99, 0, 0), rig.nowMs),
  ]) {
    const rig = packageSent();
    rig.engine.receive(encodePong(PingValue.IN_PACKAGE), rig.nowMs);
    end(rig);
    assertTakenBack(rig, 'failed');
  }
  const late = packageSent();
  late.engine.receive(LOADED, late.nowMs);
  late.engine.channelLost(undefined, late.nowMs);
  assertTakenBack(late, 'failed');
});

test('SourceMigration.cancel() takes the guest back while the destination loads the package', () => {
  const rig = packageSent();
  rig.engine.cancel(rig.nowMs);
  assertTakenBack(rig, 'cancelled');
  const tooLate = runSent();
  assert.throws(() => tooLate.engine.cancel(tooLate.nowMs), /in progress, cannot cancel/);
});

test('SourceMigration gives up a destination that does not load the package within x-switchover-timeout', () => {
  const rig = packageSent({ parameters: { 'x-switchover-timeout': 500 } });
  const endsAtMs = rig.engine.givesUpAtMs;
  assert.ok(endsAtMs > rig.nowMs && endsAtMs <= rig.nowMs + 500);
  assert.equal(rig.engine.wakeAtMs(rig.nowMs), endsAtMs);
  rig.nowMs = endsAtMs - 1;
  rig.engine.receive(encodePong(PingValue.IN_PACKAGE), rig.nowMs);
  rig.request('pc.ram', 1);
  assert.deepEqual(rig.send(), ['part', 'page pc.ram 1']);
  rig.nowMs = endsAtMs;
  assert.deepEqual(rig.send(), []);
  assertTakenBack(rig, 'failed');
  assert.match(rig.engine.error?.message ?? '', /not loaded the state of the devices within 500 ms/);
});

test('SourceMigration.checkTime() gives it up also while the channel takes nothing', () => {
  const rig = new SourceRig({ parameters: { 'x-switchover-timeout': 500 } });
  rig.writeAll();
  rig.engine.start(rig.nowMs);
  rig.engine.receive(encodePong(encodePeerFeatures(PeerFeature.RUN_HANDSHAKE)), rig.nowMs);
  rig.engine.startPostcopy();
  rig.sendAll();
  rig.engine.guestPaused(true);
  rig.engine.devicesSaved(Uint8Array.of(7), rig.nowMs);
  rig.engine.checkTime(rig.nowMs + 499);
  assert.equal(rig.engine.status, 'device');
  rig.engine.checkTime(rig.nowMs + 500);
  assertTakenBack(rig, 'failed');
});

test('SourceMigration waits for ever with an x-switchover-timeout of 0, and never once RUN has left', () => {
  const patient = packageSent({ parameters: { 'x-switchover-timeout': 0 } });
  assert.equal(patient.engine.givesUpAtMs, Number.POSITIVE_INFINITY);
  assert.equal(runSent().engine.givesUpAtMs, Number.POSITIVE_INFINITY);
});

test('SourceMigration names the window between RUN and its effect, and a recovery closes it', () => {
  const rig = runSent();
  rig.engine.channelLost(new Error('reset'), rig.nowMs);
  assert.equal(rig.engine.status, 'postcopy-paused');
  assert.ok(!rig.engine.isGuestElsewhere, 'an operator may let it run on here');
  assert.match(
    rig.engine.error?.message ?? '',
    /while the guest was handed over: reset\. It may run the guest/,
  );
  assert.ok(!rig.effects.includes('resume'));
  rig.recover();
  rig.send();
  rig.engine.receive(encodeRecvBitmap('pc.ram', Uint8Array.of(0)), rig.nowMs);
  rig.engine.receive(encodeResumeAck(), rig.nowMs);
  assert.ok(rig.engine.isGuestElsewhere);
  assert.equal(rig.engine.status, 'postcopy-active');
});

test('SourceMigration knows that the guest is gone when anything behind RUN is answered', () => {
  const rig = runSent();
  rig.engine.receive(encodePong(PingValue.PACKAGE_SENT), rig.nowMs);
  assert.ok(rig.engine.isGuestElsewhere);
  rig.engine.receive(encodeShut(1), rig.nowMs);
  assert.equal(rig.engine.status, 'postcopy-paused');
  assert.match(rig.engine.error?.message ?? '', /The guest is at the destination/);
});

test('SourceMigration takes the guest back from a destination that fails instead of coming to RUN', () => {
  const rig = runSent();
  rig.engine.receive(encodeShut(1), rig.nowMs);
  assert.equal(rig.engine.status, 'failed');
  assert.equal(rig.effects.at(-1), 'resume');
});

test('SourceMigration does not believe that a package was loaded which has not left', () => {
  const rig = new SourceRig();
  rig.writeAll();
  rig.engine.start(rig.nowMs);
  rig.engine.receive(encodePong(encodePeerFeatures(PeerFeature.RUN_HANDSHAKE)), rig.nowMs);
  rig.engine.startPostcopy();
  rig.sendAll();
  rig.engine.guestPaused(true);
  rig.engine.devicesSaved(Uint8Array.of(7), rig.nowMs);
  rig.engine.receive(LOADED, rig.nowMs);
  assertTakenBack(rig, 'failed');
  assert.match(rig.engine.error?.message ?? '', /a package of which it has not got everything/);
});

test('SourceMigration puts RUN into the package for a destination that announces other features, or none', () => {
  for (const features of [0, PeerFeature.CHECKSUMS]) {
    const rig = new SourceRig();
    rig.engine.start(rig.nowMs);
    rig.engine.receive(encodePong(encodePeerFeatures(features)), rig.nowMs);
    rig.engine.startPostcopy();
    rig.sendAll();
    rig.engine.guestPaused(true);
    rig.engine.devicesSaved(Uint8Array.of(7), rig.nowMs);
    rig.send();
    assert.deepEqual(rig.words.slice(rig.words.indexOf('  ping 66')).slice(0, 4), [
      '  ping 66',
      '  postcopy-run',
      ']',
      'ping 4',
    ]);
    assert.deepEqual(rig.statuses, ['setup', 'active', 'device', 'postcopy-active']);
    rig.engine.receive(LOADED, rig.nowMs);
    assert.ok(rig.engine.isGuestElsewhere, 'it stands right before RUN');
  }
});
