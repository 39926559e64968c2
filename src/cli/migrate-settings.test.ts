import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type MigrateOptions, parseMigrateOptions } from './migrate-settings.ts';
import { parseDurationMs } from './parse-duration.ts';
import { UsageError } from './usage-error.ts';

const SIDES = { qmp: 'a.qmp', to: 'tcp:host-b:4000', recoverFor: '10m', monitorTimeout: '30s' };
const parse = (options: Partial<MigrateOptions> = {}) => parseMigrateOptions({ ...SIDES, ...options });

test('parseMigrateOptions() has defaults that do nothing unasked', () => {
  assert.deepEqual(parse(), {
    source: 'unix:a.qmp',
    destination: 'tcp:host-b:4000',
    joins: false,
    uri: undefined,
    listenUri: undefined,
    postcopy: { kind: 'never' },
    settings: { capabilities: [], parameters: [] },
    keepsSettings: false,
    recoverForMs: 600_000,
    monitorTimeoutMs: 30_000,
  });
});

test('parseMigrateOptions() reads when to switch, and settings for both sides or one', () => {
  assert.deepEqual(parse({ postcopy: 'auto' }).postcopy, { kind: 'auto' });
  assert.deepEqual(parse({ postcopy: 'never' }).postcopy, { kind: 'never' });
  assert.deepEqual(parse({ postcopyAfter: '1.5s' }).postcopy, { kind: 'after', afterMs: 1500 });
  const { settings } = parse({
    capability: ['xbzrle=on', 'destination:postcopy-blocktime=off'],
    parameter: ['source:tls-creds=a=b'],
    maxBandwidth: '32',
    downtimeLimit: '1s',
  });
  assert.deepEqual(settings, {
    capabilities: [
      { name: 'xbzrle', value: true },
      { name: 'postcopy-blocktime', value: false, side: 'destination' },
    ],
    parameters: [
      { name: 'tls-creds', value: { text: 'a=b' }, side: 'source' },
      { name: 'max-bandwidth', value: 32 * 2 ** 20, side: 'source' },
      { name: 'downtime-limit', value: 1000, side: 'source' },
    ],
  });
});

test('parseMigrateOptions() refuses what makes no sense, and names the option', () => {
  for (const [options, why] of [
    [{ qmp: undefined }, /Both monitors are needed/],
    [{ to: undefined }, /Both monitors are needed/],
    [{ to: 'unix:a.qmp' }, /are the same monitor: unix:a.qmp/],
    [{ to: 'tcp:x' }, /--to: Monitor "tcp:x" is wrong/],
    [{ uri: 'host:4444' }, /--uri: .*the scheme "host" is not known/],
    [{ uri: 'tcp:h:x' }, /--uri: .*port/],
    [{ listenUri: 'tcp:h:1' }, /--uri must then say where the source connects/],
    [{ postcopy: 'soon' }, /--postcopy: must be auto or never, got "soon"/],
    [{ postcopy: 'auto', postcopyAfter: '1s' }, /do not go together/],
    [{ postcopyAfter: 'soon' }, /--postcopy-after: must be a time such as 500ms/],
    [{ capability: ['xbzrle'] }, /--capability: must be NAME=VALUE, source:NAME=VALUE/],
    [{ capability: ['xbzrle=maybe'] }, /--capability: /],
    [{ capability: ['both:xbzrle=on'] }, /--capability: must be NAME=VALUE/],
    [{ parameter: ['=1'] }, /--parameter: must be NAME=VALUE/],
    [{ join: true, maxBandwidth: '1M' }, /--join takes a migration as it is/],
    [{ maxBandwidth: 'fast' }, /--max-bandwidth: /],
    [{ downtimeLimit: '-1' }, /--downtime-limit: must be a time/],
    [{ recoverFor: 'ever' }, /--recover-for: must be a time/],
    [{ monitorTimeout: '10ms' }, /--monitor-timeout: must be a second or more/],
  ] as const) {
    assert.throws(
      () => parse(options as unknown as Partial<MigrateOptions>),
      (error: unknown) => error instanceof UsageError && why.test(error.message),
      `${why}`,
    );
  }
});

test('parseDurationMs() reads units, and a bare number by what it is for', () => {
  assert.equal(parseDurationMs('500ms', 's'), 500);
  assert.equal(parseDurationMs('2', 's'), 2000);
  assert.equal(parseDurationMs('2', 'ms'), 2);
  assert.equal(parseDurationMs('0.5m', 's'), 30_000);
  assert.equal(parseDurationMs('1h', 's'), 3_600_000);
  for (const text of ['', 's', '1d', '1 s', '-1s', '1e3', '1234567890', '1.2345s']) {
    assert.throws(() => parseDurationMs(text, 's'), RangeError, text);
  }
});
