/** What a source could do to a destination, by asking for the same again and again. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { writeDeviceSection } from '../wire/device-sections.ts';
import { SECTION_FOOTER_BYTES } from '../wire/sections.ts';
import {
  advised,
  allPages,
  askBitmap,
  DestinationRig,
  discard,
  eof,
  part,
  ping,
  RIG_DEVICE,
  ramEnd,
  resume,
  wholePackage,
} from './destination-rig.ts';

test('DestinationMigration refuses to discard a page twice, also in a longer range, and drops nothing for it', () => {
  for (const again of [discard(0, 1, 1), discard(0, 0, 4), discard(0, 2, 2), discard(0, 0, 2)]) {
    const rig = new DestinationRig();
    rig.receive(advised, allPages, discard(0, 1, 2));
    rig.effects.length = 0;
    rig.receive(again);
    assert.equal(rig.engine.status, 'failed');
    assert.match(
      rig.engine.error?.message ?? '',
      /discards the page at (4096|8192) of "pc.ram" twice \(stream byte/,
    );
    assert.deepEqual(rig.effects, []);
  }
});

test('DestinationMigration takes discards beside each other, in any order and of each block', () => {
  const rig = new DestinationRig();
  rig.receive(advised, allPages, discard(0, 2, 2), discard(0, 0, 1), discard(1, 0, 2), discard(0, 1, 1));
  assert.deepEqual(rig.effects.slice(-4), [
    'discard 2 of pc.ram 2',
    'discard 1 of pc.ram 0',
    'discard 2 of vga.vram 0',
    'discard 1 of pc.ram 1',
  ]);
  assert.equal(rig.engine.status, 'active');
});

test('DestinationMigration tells what it has once on a connection, for each block', () => {
  const rig = new DestinationRig();
  rig.receive(advised, allPages, discard(0, 1, 2), ping(2), wholePackage);
  rig.engine.devicesLoaded(rig.nowMs);
  rig.engine.guestResumed(undefined, rig.nowMs);
  rig.engine.channelLost(new Error('cable'), rig.nowMs);
  rig.recover();
  rig.receive(askBitmap(0), askBitmap(1));
  rig.messages.length = 0;
  rig.receive(askBitmap(0));
  assert.equal(rig.engine.status, 'postcopy-paused');
  assert.match(rig.engine.error?.message ?? '', /asks twice which pages of "pc.ram" are here/);
  assert.deepEqual(rig.answers, []);
  rig.recover();
  rig.receive(askBitmap(1), askBitmap(0), resume, part(0, { 1: 1, 2: 2 }), ramEnd, eof);
  assert.equal(rig.engine.status, 'completed');
});

test('DestinationMigration takes no device state longer than any machine of ours has', () => {
  const longest = 64 * 1024 * 1024;
  const section = writeDeviceSection({ ...RIG_DEVICE, sectionId: 7, body: new Uint8Array(4) });
  const beginning = (lengthBytes: number) => {
    const bytes = section.slice(0, -SECTION_FOOTER_BYTES);
    new DataView(bytes.buffer).setUint32(bytes.length - 4, lengthBytes);
    return bytes;
  };
  const rig = new DestinationRig();
  rig.receive(advised, allPages, ramEnd, beginning(longest));
  assert.equal(rig.engine.status, 'active');
  const refused = new DestinationRig();
  refused.receive(advised, allPages, ramEnd, beginning(longest + 1));
  assert.equal(refused.engine.status, 'failed');
  assert.match(refused.engine.error?.message ?? '', /State of 'rig' must take at most 67108864 bytes/);
});
