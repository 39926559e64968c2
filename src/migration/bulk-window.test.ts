import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BulkWindow } from './bulk-window.ts';

const MIN_BYTES = 64 * 1024;
const MAX_BYTES = 4 * 1024 * 1024;

test('BulkWindow is open until its least size is under way', () => {
  const window = new BulkWindow();
  window.open(5000);
  assert.ok(window.isOpen);
  window.sent(5000 + MIN_BYTES - 1);
  assert.ok(window.isOpen);
  window.sent(5000 + MIN_BYTES);
  assert.ok(!window.isOpen);
  window.decoded(5001, 1, 10);
  assert.ok(window.isOpen);
});

test('BulkWindow grows to twice what the path holds, within its bounds', () => {
  const path = (bytesPerMs: number, roundTripMs: number) => {
    const window = new BulkWindow();
    window.open(0);
    for (let ms = 1; ms <= 200; ms++) {
      window.sent(ms * bytesPerMs);
      window.decoded(ms * bytesPerMs, roundTripMs, ms);
    }
    return window.sizeBytes;
  };
  assert.equal(path(1000, 1), MIN_BYTES);
  const wanted = 2 * 100_000 * 5;
  assert.ok(Math.abs(path(100_000, 5) - wanted) < 0.01 * wanted);
  assert.equal(path(1_000_000, 100), MAX_BYTES);
});

/** A path that carries one piece after the other, and holds what comes too early in a queue. */
function travel(window: BulkWindow, path: { bytesPerMs: number; emptyMs: number }, untilMs: number) {
  const underWay: { position: number; sentAtMs: number; arrivesAtMs: number }[] = [];
  let position = 0;
  let freeAtMs = 0;
  let mostBytes = 0;
  for (let nowMs = 0; nowMs < untilMs; nowMs += 0.05) {
    for (let [piece] = underWay; piece !== undefined && piece.arrivesAtMs <= nowMs; [piece] = underWay) {
      underWay.shift();
      window.decoded(piece.position, nowMs - piece.sentAtMs, nowMs);
    }
    while (window.isOpen) {
      position += window.pieceBytes;
      freeAtMs = Math.max(nowMs, freeAtMs) + window.pieceBytes / path.bytesPerMs;
      underWay.push({ position, sentAtMs: nowMs, arrivesAtMs: freeAtMs + path.emptyMs });
      window.sent(position);
      mostBytes = Math.max(mostBytes, window.sizeBytes);
    }
  }
  return { position, mostBytes };
}

test('BulkWindow does not grow by its own queue', () => {
  const window = new BulkWindow();
  window.open(0);
  const path = { bytesPerMs: 400_000, emptyMs: 0.3 };
  const { mostBytes, position } = travel(window, path, 5000);
  // One piece takes 0.3 ms and its own time.
  assert.ok(mostBytes < 4 * path.bytesPerMs * (path.emptyMs + 0.25), `${mostBytes} bytes`);
  assert.ok(position > 0.95 * 5000 * path.bytesPerMs, `the path is full: ${position} bytes`);
});

test('BulkWindow learns that the path has become longer', () => {
  const window = new BulkWindow();
  window.open(0);
  for (let ms = 1; ms <= 300; ms++) {
    window.sent(ms * 100_000);
    window.decoded(ms * 100_000, 4, ms);
  }
  const before = window.sizeBytes;
  for (let ms = 301; ms <= 1500; ms++) {
    window.sent(ms * 100_000);
    window.decoded(ms * 100_000, 8, ms);
  }
  assert.ok(Math.abs(window.sizeBytes - 2 * before) < 0.1 * before, `${before}, ${window.sizeBytes}`);
});

test('BulkWindow ignores a position that is decoded already', () => {
  const window = new BulkWindow();
  window.open(1000);
  window.decoded(900, 0.001, 5);
  window.decoded(1000, 0.001, 6);
  assert.equal(window.sizeBytes, MIN_BYTES);
  window.sent(1000 + MIN_BYTES);
  assert.ok(!window.isOpen);
});

test('BulkWindow: pieces grow with the rate while nothing is asked for, and are small after a request', () => {
  const window = new BulkWindow();
  window.open(0);
  const small = window.pieceBytes;
  let position = 0;
  let nowMs = 0;
  const run = (pieces: number) => {
    for (let piece = 0; piece < pieces; piece++) {
      position += window.pieceBytes;
      window.sent(position);
      nowMs += window.pieceBytes / 1_000_000; // a gigabyte a second
      window.decoded(position, 0.1, nowMs);
    }
  };
  run(2000);
  const grown = window.pieceBytes;
  assert(grown > 4 * small && grown <= 256 * 1024, `${grown} bytes`);
  assert(window.sizeBytes >= 2 * grown, 'the next piece can be on its way while one is decoded');

  window.requested(nowMs);
  assert.equal(window.pieceBytes, small);
  run(10);
  assert.equal(window.pieceBytes, small, 'another request may come');
  run(2000);
  assert(Math.abs(window.pieceBytes - grown) <= 1);
});

test('BulkWindow opens again when a ping behind all that was pushed is answered first', () => {
  const window = new BulkWindow();
  window.open(0);
  window.sent(100);
  window.decoded(100, 5, 10);
  window.sent(200);
  // So much later that the path is to be measured: nothing more is pushed until it is empty.
  window.decoded(150, 5, 2000);
  assert.ok(!window.isOpen);
  window.decoded(300, 5, 2001);
  assert.ok(window.isOpen);
  window.sent(400);
  window.decoded(500, 5, 2010);
  assert.ok(window.isOpen);
});
