import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CAPABILITIES, capabilityNamed, DEFAULT_CAPABILITIES } from './capabilities.ts';

test('capabilityNamed() takes names and older names', () => {
  assert.equal(capabilityNamed('postcopy-ram'), 'postcopy-ram');
  assert.equal(capabilityNamed('x-postcopy-ram'), 'postcopy-ram');
  assert.equal(capabilityNamed('events'), 'events');
  assert.throws(
    () => capabilityNamed('xbzrle'),
    /No capability is named "xbzrle"; there are: events, postcopy-ram, x-checksum/,
  );
  assert.throws(() => capabilityNamed('constructor'), RangeError);
});

test('DEFAULT_CAPABILITIES are all off', () => {
  assert.deepEqual(Object.keys(DEFAULT_CAPABILITIES), Object.keys(CAPABILITIES));
  assert.ok(Object.values(DEFAULT_CAPABILITIES).every((isOn) => !isOn));
});
