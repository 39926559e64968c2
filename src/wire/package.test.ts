import assert from 'node:assert/strict';
import { test } from 'node:test';
import { concatenate, deviceSections, fromHex, packageBytes } from './example-stream.ts';
import { openPackage } from './package.ts';

const LISTEN = fromHex('08 0004 0000');
const PING_3 = fromHex('08 0002 0004 00000003');
const PING_42 = fromHex('08 0002 0004 00000042');
const RUN = fromHex('08 0005 0000');

test('openPackage() takes out the device sections', () => {
  const { deviceSections: taken, devicesAt, commandsAt } = openPackage(packageBytes);
  assert.deepEqual(Uint8Array.from(taken), deviceSections);
  assert.equal(devicesAt, 5);
  assert.equal(commandsAt, 5 + deviceSections.length);
});

test('openPackage() knows the pings of older and newer sources', () => {
  for (const last of [[PING_3, RUN], [PING_3, PING_42, RUN], [RUN], [PING_3, PING_42]]) {
    const { deviceSections: taken } = openPackage(concatenate(LISTEN, deviceSections, ...last));
    assert.deepEqual(Uint8Array.from(taken), deviceSections);
  }
});

for (const { what, bytes, at } of [
  { what: 'one that does not begin with LISTEN', bytes: concatenate(PING_3, RUN), at: 0 },
  { what: 'one that does not end with RUN', bytes: concatenate(LISTEN, deviceSections, PING_3), at: 144 },
  { what: 'one that is too short', bytes: LISTEN.subarray(0, 3), at: 0 },
  { what: 'one whose RUN is also its LISTEN', bytes: LISTEN, at: 0 },
]) {
  test(`openPackage() refuses ${what}`, () => {
    const expected = { code: 'BAD_COMMAND', ...(at === 144 ? {} : { at }) };
    assert.throws(() => openPackage(bytes), expected);
  });
}
