import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseRunOptions, type RunOptions } from './run-settings.ts';

const DEFAULTS: RunOptions = { memory: '256M', dirtyTracking: 'auto', qmp: 'none', guest: 'counter' };
const parse = (options: Partial<RunOptions> = {}, isTerminal = false) =>
  parseRunOptions({ ...DEFAULTS, ...options }, isTerminal);

test('parseRunOptions() takes the defaults', () => {
  const { machine, ...rest } = parse();
  assert.match(machine.kernelPath ?? '', /\/guests\/counter\.bin$/);
  assert.deepEqual(
    { ...machine, kernelPath: '' },
    { memoryBytes: 256 << 20, dirtyTracking: 'auto', isPaused: false, kernelPath: '' },
  );
  assert.deepEqual(rest, {
    incomingUri: undefined,
    monitor: { kind: 'none' },
    qmp: { kind: 'none' },
    serial: { kind: 'stdio' },
    tracePatterns: [],
    traceFile: undefined,
    capabilities: {},
    parameters: {},
    objects: [],
  });
});

test('parseRunOptions() takes every option of the machine', () => {
  const { guest, ...noGuest } = DEFAULTS;
  assert.equal(guest, 'counter');
  const options = {
    ...noGuest,
    memory: '64',
    kernel: 'k',
    initrd: 'i',
    append: 'a b',
    bios: 'b',
    vgaBios: 'v',
    hda: 'h',
    cdrom: 'c',
    paused: true,
    dirtyTracking: 'sync',
  };
  assert.deepEqual(parseRunOptions(options, false).machine, {
    memoryBytes: 64 << 20,
    dirtyTracking: 'sync',
    isPaused: true,
    kernelPath: 'k',
    initrdPath: 'i',
    commandLine: 'a b',
    biosPath: 'b',
    vgaBiosPath: 'v',
    hardDiskPath: 'h',
    cdromPath: 'c',
  });
});

test('parseRunOptions() defers an incoming migration until capabilities are set', () => {
  const { machine, incomingUri } = parse({ incoming: 'tcp:127.0.0.1:1' });
  assert.equal(machine.incoming, 'defer');
  assert.equal(incomingUri, 'tcp:127.0.0.1:1');
  assert.equal(parse({ incoming: 'defer' }).machine.incoming, 'defer');
  assert.equal(parse({ incoming: 'defer' }).incomingUri, undefined);
});

test('parseRunOptions() takes capabilities and parameters as a person types them', () => {
  const { capabilities, parameters } = parse({
    capability: ['x-postcopy-ram=on', 'events=off'],
    parameter: ['max-bandwidth=1', 'downtime-limit=50', 'max-postcopy-bandwidth=2M'],
  });
  assert.deepEqual(capabilities, { 'postcopy-ram': true, events: false });
  assert.deepEqual(parameters, {
    'max-bandwidth': 2 ** 20,
    'downtime-limit': 50,
    'max-postcopy-bandwidth': 2 * 2 ** 20,
  });
});

test('parseRunOptions() gives standard streams to one console', () => {
  const at = (options: Partial<RunOptions>, isTerminal: boolean) => {
    const { monitor, qmp, serial } = parse(options, isTerminal);
    return [monitor.kind, qmp.kind, serial.kind].join(' ');
  };
  assert.equal(at({}, false), 'none none stdio');
  assert.equal(at({}, true), 'stdio none null');
  assert.equal(at({ serial: 'stdio' }, true), 'none none stdio');
  assert.equal(at({ qmp: 'stdio' }, true), 'none stdio null');
  assert.equal(at({ monitor: 'none' }, true), 'none none stdio');
  assert.equal(at({ monitor: 'stdio', serial: 'stderr' }, false), 'stdio none stderr');
  assert.equal(at({ monitor: 'unix:/m', serial: 'file:/s' }, false), 'unix none file');
});

test('parseRunOptions() says which option makes no sense', () => {
  const refused: [options: Partial<RunOptions>, message: RegExp][] = [
    [{ memory: 'x' }, /^--memory: Size must be a whole number of bytes/],
    [{ memory: '0' }, /^--memory: must be more than nothing$/],
    [{ guest: 'x' }, /^--guest: must be counter, random, reader, got "x"$/],
    [{ kernel: 'k' }, /^--guest and --kernel do not go together$/],
    [{ dirtyTracking: 'x' }, /^--dirty-tracking: must be auto, async, sync, got "x"$/],
    [{ monitor: 'x' }, /^--monitor: Monitor must be stdio, unix:PATH or none, got "x"$/],
    [{ qmp: 'unix:' }, /^--qmp: Monitor "unix:" lacks a path$/],
    [{ serial: 'x' }, /^--serial: Serial console must be stdio, stderr, null or file:PATH, got "x"$/],
    [{ serial: 'file:' }, /^--serial: /],
    [{ monitor: 'stdio', qmp: 'stdio' }, /^Only one of --monitor and --qmp can be stdio$/],
    [{ monitor: 'stdio', serial: 'stdio' }, /^Only one of --monitor and --serial can be stdio$/],
    [{ incoming: 'tcp:127.0.0.1' }, /^--incoming: Bad migration URI "tcp:127.0.0.1": /],
    [{ incoming: 'foo:1' }, /^--incoming: Bad migration URI "foo:1": /],
    [{ trace: ['*', 'nope'] }, /^--trace: no trace point matches "nope"/],
    [{ capability: ['events'] }, /^--capability: must be NAME=VALUE, got "events"$/],
    [{ capability: ['events=1'] }, /^--capability: Expected 'on' or 'off', got "1"$/],
    [{ capability: ['nope=on'] }, /^--capability: No capability is named "nope"/],
    [{ parameter: ['nope=1'] }, /^--parameter: No parameter is named "nope"/],
    [{ parameter: ['downtime-limit=-1'] }, /^--parameter: Parameter "downtime-limit" must be/],
  ];
  for (const [options, message] of refused) {
    assert.throws(() => parse(options), { name: 'UsageError', message }, JSON.stringify(options));
  }
  const { guest: _guest, ...nothing } = DEFAULTS;
  assert.throws(() => parseRunOptions(nothing, false), { name: 'UsageError', message: /^Nothing to run: / });
  assert.equal(parseRunOptions({ ...nothing, incoming: 'defer' }, false).machine.kernelPath, undefined);
});
