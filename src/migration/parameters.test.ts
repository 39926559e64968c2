import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  checkParameter,
  DEFAULT_PARAMETERS,
  type NumericParameter,
  PARAMETERS,
  type Parameter,
  parameterNamed,
} from './parameters.ts';

test('DEFAULT_PARAMETERS are those of QEMU, and within their bounds', () => {
  assert.deepEqual(DEFAULT_PARAMETERS, {
    'max-bandwidth': 134_217_728,
    'max-postcopy-bandwidth': 0,
    'downtime-limit': 300,
    'x-postcopy-start-time': 0,
    'x-switchover-timeout': 30_000,
    'x-reconnect-ms': 0,
    'x-peer-timeout': 60_000,
    'tls-creds': '',
    'tls-hostname': '',
    'tls-authz': '',
  });
  for (const [name, value] of Object.entries(DEFAULT_PARAMETERS))
    assert.equal(checkParameter(name as Parameter, value), value);
});

test('checkParameter() takes whole numbers within the bounds, and says what they are', () => {
  assert.equal(checkParameter('downtime-limit', 2_000_000), 2_000_000);
  for (const value of [2_000_001, -1, 0.5, Number.NaN, Number.POSITIVE_INFINITY]) {
    assert.throws(
      () => checkParameter('downtime-limit', value),
      new RangeError(
        `Parameter "downtime-limit" must be a whole number of ms from 0 to 2000000, got ${value}`,
      ),
    );
  }
  for (const name of Object.keys(PARAMETERS) as NumericParameter[]) {
    const { minimum, maximum } = PARAMETERS[name];
    assert.equal(checkParameter(name, minimum), minimum);
    assert.equal(checkParameter(name, maximum), maximum);
    assert.throws(() => checkParameter(name, maximum + 1), RangeError);
  }
});

test('checkParameter() takes text for names, and null for none', () => {
  assert.equal(checkParameter('tls-creds', 'tls0'), 'tls0');
  assert.equal(checkParameter('tls-creds', null), '');
  assert.throws(() => checkParameter('tls-creds', 5), /Parameter "tls-creds" must be a name, got 5/);
  assert.throws(() => checkParameter('downtime-limit', '5'), /must be a whole number of ms/);
});

test('parameterNamed() lists what there is', () => {
  assert.equal(parameterNamed('max-bandwidth'), 'max-bandwidth');
  assert.throws(
    () => parameterNamed('toString'),
    /No parameter is named "toString"; there are: max-bandwidth, max-postcopy-bandwidth/,
  );
});
