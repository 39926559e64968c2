/** What a destination could do to a source: found by a fuzzer, or by asking what each message costs. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PageBitmap } from '../memory/page-bitmap.ts';
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import { PingValue } from '../wire/commands.ts';
import { concatenate } from '../wire/example-stream.ts';
import {
  encodePong,
  encodeRecvBitmap,
  encodeReqPagesId,
  encodeResumeAck,
  encodeShut,
} from '../wire/return-path.ts';
import { MAX_QUEUED_REQUESTS, MAX_RANGE_ROUNDS } from './page-request-queue.ts';
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

test('SourceMigration serves all of memory asked for at once so often on a connection, and then does not', () => {
  const rig = new SourceRig({ isRecoverable: true }).writeAll();
  rig.switchToPostcopy();
  const askForAll = () => rig.engine.receive(encodeReqPagesId(0, 8 * TARGET_PAGE_BYTES, 'pc.ram'), rig.nowMs);
  for (let round = 0; round < MAX_RANGE_ROUNDS; round++) askForAll();
  assert.equal(rig.engine.status, 'postcopy-active');
  for (let count = 0; count < 100; count++) rig.request('pc.ram', 3);
  assert.equal(rig.engine.status, 'postcopy-active', 'a single page is another matter');
  askForAll();
  assert.equal(rig.engine.status, 'postcopy-paused');
  assert.match(
    rig.engine.error?.message ?? '',
    /in ranges: at most 32, each of them 4 times \(return path byte \d+\)/,
  );
  rig.recover();
  rig.send();
  rig.engine.receive(encodeRecvBitmap('pc.ram', new Uint8Array(8)), rig.nowMs);
  rig.engine.receive(encodeResumeAck(), rig.nowMs);
  askForAll();
  assert.equal(rig.engine.status, 'postcopy-active', 'on another connection it may ask again');
});

/** The first half of the pages can be read. The destination asks for so many of either half. */
function asksForHalves(pageCount: number, halves = [0, 1]) {
  const available = PageBitmap.shared(2 * MAX_QUEUED_REQUESTS);
  available.setRange(0, MAX_QUEUED_REQUESTS);
  const blocks = { 'pc.ram': 2 * MAX_QUEUED_REQUESTS };
  const rig = new SourceRig({ blocks, availablePages: [available], isRecoverable: true }).writeAll();
  rig.switchToPostcopy();
  for (const half of halves) {
    const start = half * MAX_QUEUED_REQUESTS * TARGET_PAGE_BYTES;
    rig.engine.receive(encodeReqPagesId(start, pageCount * TARGET_PAGE_BYTES, 'pc.ram'), rig.nowMs);
  }
  return { rig, available };
}

test('SourceMigration has room for all pages that arrive, since those count that are awaited', () => {
  const { rig, available } = asksForHalves(MAX_QUEUED_REQUESTS / 2);
  assert.equal(rig.engine.status, 'postcopy-active');
  available.setRange(0, available.pageCount);
  rig.engine.pagesArrived();
  rig.request('pc.ram', 0);
  assert.equal(rig.engine.status, 'postcopy-paused');
  assert.match(rig.engine.error?.message ?? '', /Too many page requests: at most 65536 may wait/);
});

test('SourceMigration is paused by too many requests for pages that cannot be read yet, and goes on taking those in', () => {
  for (const halves of [
    [0, 1],
    [1, 0],
  ]) {
    const { rig, available } = asksForHalves(MAX_QUEUED_REQUESTS / 2 + 1, halves);
    assert.equal(rig.engine.status, 'postcopy-paused');
    assert.match(rig.engine.error?.message ?? '', /Too many page requests: at most 65536 may wait/);
    available.setRange(0, available.pageCount);
    rig.engine.pagesArrived();
  }
});
