import assert from 'node:assert/strict';
import { test } from 'node:test';
import { planSettings, type SaveWishes, valuesBefore } from './source-settings.ts';

const WISHES: SaveWishes = {
  isBackground: false,
  hasReturnPath: true,
  maxBytesPerSecond: 0,
  downtimeLimitMs: undefined,
  hasTls: false,
};
/** Of QEMU 7.2 as it starts, what matters here. */
const CAPABILITIES = {
  xbzrle: false,
  'postcopy-ram': false,
  events: false,
  'return-path': false,
  multifd: false,
  'x-ignore-shared': false,
  'validate-uuid': false,
  'background-snapshot': false,
};
const PARAMETERS = { 'max-bandwidth': 2 ** 27, 'downtime-limit': 300, 'tls-creds': '' };

test('planSettings() touches as little as it can', () => {
  assert.deepEqual(planSettings(CAPABILITIES, PARAMETERS, WISHES), {
    capabilities: { events: true, 'return-path': true },
    parameters: { 'max-bandwidth': 0 },
  });
  const ready = { ...CAPABILITIES, events: true, 'return-path': true };
  assert.deepEqual(planSettings(ready, { ...PARAMETERS, 'max-bandwidth': 0 }, WISHES), {
    capabilities: {},
    parameters: {},
  });
});

test('planSettings() switches off what a file cannot be the end of, and lets be what it can', () => {
  const on = Object.fromEntries(Object.keys(CAPABILITIES).map((name) => [name, true]));
  assert.deepEqual(planSettings(on, PARAMETERS, WISHES).capabilities, {
    'postcopy-ram': false,
    multifd: false,
    'x-ignore-shared': false,
    'background-snapshot': false,
  });
});

test('planSettings() for a save in the background leaves nothing on that does not go with it', () => {
  const on = Object.fromEntries(Object.keys(CAPABILITIES).map((name) => [name, true]));
  const { capabilities } = planSettings({ ...on, 'background-snapshot': false }, PARAMETERS, {
    ...WISHES,
    isBackground: true,
  });
  assert.deepEqual(capabilities, {
    xbzrle: false,
    'postcopy-ram': false,
    'return-path': false,
    multifd: false,
    'x-ignore-shared': false,
    'validate-uuid': false,
    'background-snapshot': true,
  });
});

test('planSettings() refuses a save in the background where the monitor does not know of it', () => {
  assert.throws(() => planSettings({ xbzrle: false }, PARAMETERS, { ...WISHES, isBackground: true }), {
    name: 'SaveError',
    message: /cannot save in the background/,
  });
});

test('planSettings() sets what was asked for, and what keeps the stream plain', () => {
  const parameters = {
    ...PARAMETERS,
    'tls-creds': 'tls0',
    mode: 'cpr-reboot',
    'zero-page-detection': 'none',
  };
  const wishes = { ...WISHES, maxBytesPerSecond: 1000, downtimeLimitMs: 20 };
  assert.deepEqual(planSettings(CAPABILITIES, parameters, wishes).parameters, {
    'max-bandwidth': 1000,
    'tls-creds': '',
    mode: 'normal',
    'downtime-limit': 20,
    'zero-page-detection': 'legacy',
  });
  const modern = { ...PARAMETERS, 'zero-page-detection': 'multifd', mode: 'normal' };
  assert.deepEqual(planSettings(CAPABILITIES, modern, WISHES).parameters, { 'max-bandwidth': 0 });
});

test('planSettings() leaves the credentials of a source alone whose stream is to be protected, and needs them', () => {
  const wishes = { ...WISHES, hasTls: true };
  const withTls = { ...PARAMETERS, 'tls-creds': 'tls0' };
  assert.equal(planSettings(CAPABILITIES, withTls, wishes).parameters['tls-creds'], undefined);
  assert.throws(() => planSettings(CAPABILITIES, PARAMETERS, wishes), {
    name: 'SaveError',
    message: /^QEMU has no credentials/,
  });
});

test('planSettings() switches the return path off where the end of the stream cannot be told from it', () => {
  const on = { ...CAPABILITIES, events: true, 'return-path': true };
  assert.deepEqual(planSettings(on, PARAMETERS, { ...WISHES, hasReturnPath: false }).capabilities, {
    'return-path': false,
  });
});

test('valuesBefore() tells what is replaced', () => {
  assert.deepEqual(valuesBefore({ a: 1, b: 2 }, { b: 3 }), { b: 2 });
});
