import assert from 'node:assert/strict';
import { test } from 'node:test';
import { assertOneGuest, parseTicks } from './ticks.ts';

const line = (tick: number, ms = tick * 100, nonce = 'E8CC2263', pass = tick) =>
  `tick=${tick} pass=${pass} nonce=${nonce} ms=${ms}\n`;

test('parseTicks() reads whole lines and nothing else', () => {
  const text = `counter: nonce=E8CC2263 pages=2048\n${line(1)}${line(2)}tick=3 pass=3 nonce=E8`;
  assert.deepEqual(parseTicks(text), [
    { tick: 1, pass: 1, nonce: 'E8CC2263', ms: 100 },
    { tick: 2, pass: 2, nonce: 'E8CC2263', ms: 200 },
  ]);
});

test('assertOneGuest() accepts a guest whose line was cut in two by its move', () => {
  const text = line(1) + line(2) + line(3);
  assertOneGuest(text.slice(0, 50), text.slice(50));
});

test('assertOneGuest() finds what a move can do to a guest', () => {
  assert.throws(() => assertOneGuest(line(1), line(3)), /lost or doubled/);
  assert.throws(() => assertOneGuest(line(1) + line(2), line(2)), /lost or doubled/);
  assert.throws(() => assertOneGuest(line(1), line(2, 200, '00000001')), /Another guest/);
  assert.throws(() => assertOneGuest(line(5), line(6, 499)), /stood or went back/);
  assert.throws(() => assertOneGuest(line(5), line(6, 60_500)), /jumped/);
  assert.throws(() => assertOneGuest(line(5), line(6, 600, 'E8CC2263', 4)), /went back/);
});
