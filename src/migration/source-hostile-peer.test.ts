/** What a fuzzer has found a destination could do to a source. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PingValue } from '../wire/commands.ts';
import { concatenate } from '../wire/example-stream.ts';
import { encodePong, encodeReqPagesId, encodeShut } from '../wire/return-path.ts';
import { SourceRig } from './source-rig.ts';

const GARBAGE = Uint8Array.of(0, 9, 0, 0);

/** The devices are saved, and nothing of the package is sent. */
function handingOver(): SourceRig {
  const rig = new SourceRig({ isRecoverable: true }).writeAll();
  rig.engine.start(rig.nowMs);
  rig.engine.startPostcopy();
  rig.sendAll();
  rig.engine.guestPaused(true);
  rig.engine.devicesSaved(Uint8Array.of(7), rig.nowMs);
  return rig;
}

test('SourceMigration hears the PONG before RUN also when nonsense comes with it', () => {
  const rig = handingOver();
  rig.sendAll();
  rig.engine.receive(concatenate(encodePong(PingValue.IN_PACKAGE), GARBAGE), rig.nowMs);
  assert.equal(rig.engine.status, 'postcopy-paused');
  assert.ok(rig.engine.isGuestElsewhere);
});

test('SourceMigration does not believe that a package was taken before all of it has left', () => {
  const rig = handingOver();
  rig.engine.receive(encodePong(PingValue.IN_PACKAGE), rig.nowMs);
  assert.equal(rig.engine.status, 'failed');
  assert.equal(rig.engine.isGuestElsewhere, false);
  assert.equal(rig.effects.at(-1), 'resume');
});

test('SourceMigration is paused again when who answers a recovery reports failure, whoever has the guest', () => {
  const rig = handingOver();
  rig.sendAll();
  rig.engine.channelLost(undefined, rig.nowMs);
  rig.recover();
  rig.engine.receive(encodeShut(1), rig.nowMs);
  assert.equal(rig.engine.status, 'postcopy-paused');
  assert.match(rig.engine.error?.message ?? '', /reports failure \(status 1\)/);
});

test('SourceMigration has nothing to do once it is over, also with something left to send', () => {
  const rig = handingOver();
  rig.engine.receive(encodeShut(1), rig.nowMs);
  assert.ok(rig.engine.isOver);
  assert.equal(rig.engine.wakeAtMs(rig.nowMs), Number.POSITIVE_INFINITY);
});

test('SourceMigration names the byte of the message that it refuses, however the bytes come', () => {
  const request = encodeReqPagesId(0x100000, 4096, 'pc.ram');
  const texts = [[concatenate(encodePong(77), request)], [encodePong(77), request]].map((chunks) => {
    const rig = handingOver();
    rig.sendAll();
    for (const chunk of chunks) rig.engine.receive(chunk, rig.nowMs);
    return rig.engine.error?.message ?? '';
  });
  assert.match(texts[0] as string, /the block ends at 32768 \(return path byte 32\)/);
  assert.equal(texts[1], texts[0]);
});
