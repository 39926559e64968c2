import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseParameterValue, parseSize, parseSwitch } from './parse-quantity.ts';

test('parseSize() takes suffixes of either case, fractions and hexadecimal', () => {
  assert.equal(parseSize('0'), 0);
  assert.equal(parseSize('4096'), 4096);
  assert.equal(parseSize('7b', 1024), 7);
  assert.equal(parseSize('1k'), 1024);
  assert.equal(parseSize('256M'), 256 * 2 ** 20);
  assert.equal(parseSize('1.5G'), 1.5 * 2 ** 30);
  assert.equal(parseSize('2T'), 2 ** 41);
  assert.equal(parseSize('0x1000'), 4096);
  assert.equal(parseSize('64', 2 ** 20), 64 * 2 ** 20);
});

test('parseSize() refuses what is no whole number of bytes', () => {
  for (const text of ['', 'x', '-1', '1.5', '1 M', '1Mi', '9007199254740993', '99999999T', '1e3', 'M']) {
    assert.throws(() => parseSize(text), {
      name: 'RangeError',
      message: `Size must be a whole number of bytes with an optional suffix K, M, G or T, got "${text}"`,
    });
  }
});

test('parseParameterValue() counts a bare max-bandwidth in MiB and the others in their units', () => {
  assert.equal(parseParameterValue('max-bandwidth', '1'), 2 ** 20);
  assert.equal(parseParameterValue('max-bandwidth', '1K'), 1024);
  assert.equal(parseParameterValue('max-postcopy-bandwidth', '1'), 1);
  assert.equal(parseParameterValue('downtime-limit', '50'), 50);
});

test('parseParameterValue() refuses a time with a suffix and values out of bounds', () => {
  assert.throws(() => parseParameterValue('downtime-limit', '1s'), {
    message: 'Parameter "downtime-limit" must be a whole number of ms, got "1s"',
  });
  assert.throws(() => parseParameterValue('downtime-limit', '2000001'), {
    message: 'Parameter "downtime-limit" must be a whole number of ms from 0 to 2000000, got 2000001',
  });
});

test('parseSwitch() takes on and off only', () => {
  assert.equal(parseSwitch('on'), true);
  assert.equal(parseSwitch('off'), false);
  assert.throws(() => parseSwitch('yes'), { message: `Expected 'on' or 'off', got "yes"` });
});
