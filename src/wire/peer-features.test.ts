import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodePeerFeatures, encodePeerFeatures, PeerFeature } from './peer-features.ts';

test('encodePeerFeatures() puts the features below a number that no ping of QEMU has', () => {
  assert.equal(encodePeerFeatures(PeerFeature.RUN_HANDSHAKE), 0x7063_0001);
  assert.equal(encodePeerFeatures(PeerFeature.RUN_HANDSHAKE | PeerFeature.CHECKSUMS), 0x7063_0003);
});

test('decodePeerFeatures() gives back what was encoded, and nothing for any other pong', () => {
  for (const features of [0, 1, 2, 3, 0xffff])
    assert.equal(decodePeerFeatures(encodePeerFeatures(features)), features);
  for (const value of [1, 2, 3, 4, 0x42, 0x1000, 0x7062_ffff, 0x7064_0000, 0xf063_0001, 0xffff_ffff])
    assert.equal(decodePeerFeatures(value), undefined, value.toString(16));
});
