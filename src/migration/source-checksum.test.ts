import assert from 'node:assert/strict';
import { test } from 'node:test';
import { concatenate } from '../wire/example-stream.ts';
import { encodePeerFeatures, PeerFeature } from '../wire/peer-features.ts';
import { encodePong } from '../wire/return-path.ts';
import { RECOVERY_SILENCE_MS } from './source.ts';
import { SourceRig } from './source-rig.ts';

const announcement = (features: number) => encodePong(encodePeerFeatures(features));

function started(options: ConstructorParameters<typeof SourceRig>[0] = {}): SourceRig {
  const rig = new SourceRig({ blocks: { 'pc.ram': 3 }, hasChecksums: true, ...options }).writeAll();
  rig.engine.start(rig.nowMs);
  return rig;
}

test('SourceMigration with x-checksum sends nothing of RAM before the destination says that it knows checksums', () => {
  const rig = started();
  assert.deepEqual(rig.send(), ['configuration rig-1', 'open-return-path', 'ping 1']);
  assert.deepEqual(rig.send(), []);
  assert.equal(rig.engine.status, 'setup');
  rig.engine.receive(concatenate(announcement(PeerFeature.CHECKSUMS), encodePong(1)), rig.nowMs);
  assert.deepEqual(rig.send().slice(0, 3), ['postcopy-advise', 'start', 'blocks pc.ram']);
  assert.ok(rig.sendAll().includes('page pc.ram 2'));
  assert.ok(rig.hasSeenChecksums);
});

test('SourceMigration without x-checksum sends none, whatever the destination can', () => {
  const rig = started({ hasChecksums: false });
  rig.engine.receive(announcement(PeerFeature.CHECKSUMS), rig.nowMs);
  assert.ok(rig.sendAll().includes('page pc.ram 2'));
  assert.equal(rig.hasSeenChecksums, false);
});

for (const [what, answer] of [
  ['says nothing of itself, as a QEMU', encodePong(1)],
  ['knows something else', concatenate(announcement(PeerFeature.RUN_HANDSHAKE), encodePong(1))],
] as const) {
  test(`SourceMigration with x-checksum fails before the migration begins if the destination ${what}`, () => {
    const rig = started();
    rig.send();
    rig.engine.receive(answer, rig.nowMs);
    assert.equal(rig.engine.status, 'failed');
    assert.match(rig.engine.error?.message ?? '', /cannot check checksums: it is a QEMU.*"x-checksum" off/);
    assert.deepEqual(rig.sendAll(), []);
    assert.deepEqual(rig.effects.includes('pause'), false);
  });
}

test('SourceMigration with x-checksum does not wait for ever for a destination that says nothing', () => {
  const rig = started();
  rig.send();
  assert.equal(rig.engine.wakeAtMs(rig.nowMs), rig.nowMs + RECOVERY_SILENCE_MS);
  rig.nowMs += RECOVERY_SILENCE_MS;
  rig.send();
  assert.equal(rig.engine.status, 'failed');
  assert.match(rig.engine.error?.message ?? '', /has not answered within 30 s/);
});

test('SourceMigration with x-checksum can be cancelled, and told to switch, while it waits', () => {
  const rig = started();
  rig.engine.startPostcopy();
  rig.engine.cancel(rig.nowMs);
  assert.equal(rig.engine.status, 'cancelled');
});

test('SourceMigration refuses x-checksum where nothing can come back', () => {
  assert.throws(
    () => new SourceRig({ hasChecksums: true, isPostcopyOn: false, hasReturnPath: false }),
    /Checksums need a return path/,
  );
});
