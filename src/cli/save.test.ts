import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseSaveOptions } from './save.ts';

const parse = (options: object = {}, path = 'a.snap') =>
  parseSaveOptions(path, { qmp: 'vm.qmp', ...options });

test('parseSaveOptions() takes the defaults', () => {
  assert.deepEqual(parse(), {
    qmp: 'vm.qmp',
    path: 'a.snap',
    overwrite: false,
    isBackground: false,
    afterwards: 'stay',
    maxBytesPerSecond: 0,
    downtimeLimitMs: undefined,
    socket: { via: undefined, connect: undefined, tls: undefined },
  });
});

test('parseSaveOptions() takes every option', () => {
  const { socket, ...rest } = parse({
    ...{ overwrite: true, quit: true, maxBandwidth: '1.5G', downtimeLimit: '50' },
    ...{ via: 'tcp:0.0.0.0:4444', connect: 'tcp:192.0.2.1:4444', tls: undefined },
  });
  assert.deepEqual(socket, { via: 'tcp:0.0.0.0:4444', connect: 'tcp:192.0.2.1:4444', tls: undefined });
  assert.equal(rest.overwrite, true);
  assert.equal(rest.afterwards, 'quit');
  assert.equal(parse({ background: true }).isBackground, true);
  assert.equal(parse({ background: true, quit: true }).afterwards, 'quit');
  assert.equal(rest.maxBytesPerSecond, 1.5 * 2 ** 30);
  assert.equal(rest.downtimeLimitMs, 50);
  assert.equal(parse({ keepRunning: true }).afterwards, 'run');
  assert.equal(parse({ background: true }).afterwards, 'run');
  assert.equal(parse({ maxBandwidth: '32' }).maxBytesPerSecond, 32 * 2 ** 20);
});

test('parseSaveOptions() refuses what makes no sense', () => {
  const refused: readonly [object, RegExp][] = [
    [{ quit: true, keepRunning: true }, /do not go together/],
    [{ background: true, maxBandwidth: '1G' }, /heeds no limit/],
    [{ background: true, downtimeLimit: '1' }, /no last pass/],
    [{ maxBandwidth: 'fast' }, /^--max-bandwidth: Size must be/],
    [{ maxBandwidth: '0' }, /^--max-bandwidth: must be more than nothing/],
    [{ downtimeLimit: '1.5' }, /^--downtime-limit: must be a whole number/],
    [{ downtimeLimit: '2000001' }, /^--downtime-limit: .* up to 2000000/],
    [{ via: 'nowhere' }, /Bad migration URI/],
    [{ connect: 'tcp:h:1' }, /give both/],
  ];
  for (const [options, message] of refused) {
    assert.throws(() => parse(options), { name: 'UsageError', message }, JSON.stringify(options));
  }
  assert.throws(() => parse({}, ''), { name: 'UsageError' });
});
