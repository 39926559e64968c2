import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodeGlobalState, writeDeviceSection } from '../wire/device-sections.ts';
import { ranWhenSaved, savedRunState } from './saved-run-state.ts';

const section = (idstr: string, body: Uint8Array) =>
  writeDeviceSection({ sectionId: 7, idstr, instanceId: 0, versionId: 1, body });
const other = section('timer', Uint8Array.of(1, 2, 3));

test('savedRunState() finds the run state among other devices', () => {
  for (const state of ['running', 'paused', 'postmigrate']) {
    const sections = Buffer.concat([other, section('globalstate', encodeGlobalState(state)), other]);
    assert.equal(savedRunState(sections), state);
  }
});

test('savedRunState() does not know what the sections do not say', () => {
  assert.equal(savedRunState(other), undefined);
  assert.equal(savedRunState(new Uint8Array()), undefined);
  assert.equal(savedRunState(section('globalstate', Uint8Array.of(1))), undefined);
});

test('ranWhenSaved() is true only of a guest that QEMU would let run', () => {
  for (const state of ['paused', 'prelaunch', 'postmigrate', 'guest-panicked', 'shutdown']) {
    assert.equal(ranWhenSaved(section('globalstate', encodeGlobalState(state))), false, state);
  }
  assert.equal(ranWhenSaved(section('globalstate', encodeGlobalState('running'))), true);
  assert.equal(ranWhenSaved(other), true, 'a machine type that does not say');
});
