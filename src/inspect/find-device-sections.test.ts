import assert from 'node:assert/strict';
import { test } from 'node:test';
import { writeDeviceSection } from '../wire/device-sections.ts';
import { concatenate, deviceSections, fromHex } from '../wire/example-stream.ts';
import { findDeviceSections } from './find-device-sections.ts';

const section = (sectionId: number, idstr: string, body: Uint8Array) =>
  writeDeviceSection({ sectionId, idstr, instanceId: 1, versionId: 2, body });

test('findDeviceSections() tells sections apart, also when a body contains what looks like its footer', () => {
  const body = fromHex('7e 00000003 05');
  const sections = concatenate(section(3, 'timer', body), section(4, 'cpu', new Uint8Array(0)));
  assert.deepEqual(findDeviceSections(sections, 100), [
    { sectionId: 3, idstr: 'timer', instanceId: 1, versionId: 2, bodyBytes: 6, at: 100 },
    { sectionId: 4, idstr: 'cpu', instanceId: 1, versionId: 2, bodyBytes: 0, at: 130 },
  ]);
  assert.deepEqual(findDeviceSections(new Uint8Array(0), 0), []);
});

test('findDeviceSections() says so when it cannot', () => {
  assert.equal(findDeviceSections(deviceSections.subarray(1), 0), undefined);
  assert.equal(findDeviceSections(deviceSections.subarray(0, -1), 0), undefined);
  assert.equal(findDeviceSections(concatenate(deviceSections, fromHex('00')), 0), undefined);
});
