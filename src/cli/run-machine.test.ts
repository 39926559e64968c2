import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { FakeVm } from '../monitor/fake-vm.ts';
import { VmError } from '../vm/vm.ts';
import { runMachine } from './run-machine.ts';
import { parseRunOptions, type RunOptions } from './run-settings.ts';

/** Runs a fake machine; `isUp` resolves when it takes events. */
function start(options: Partial<RunOptions>, vm = new FakeVm()) {
  const settings = parseRunOptions(
    { memory: '64M', guest: 'counter', dirtyTracking: 'auto', qmp: 'none', serial: 'null', ...options },
    false,
  );
  let setUp: () => void = () => {};
  const isUp = new Promise<void>((resolve) => {
    setUp = resolve;
  });
  const code = runMachine(settings, async () => {
    setTimeout(setUp);
    return vm;
  });
  return { vm, code, isUp };
}

function temporaryFolder(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'postcopy-run-'));
  t.after(() => rmSync(folder, { recursive: true }));
  return folder;
}

test('runMachine() sets capabilities and parameters before it listens', async () => {
  const { vm, code, isUp } = start({
    incoming: 'tcp:127.0.0.1:1',
    capability: ['postcopy-ram=on'],
    parameter: ['downtime-limit=50'],
  });
  await isUp;
  process.emit('SIGTERM', 'SIGTERM');
  await code;
  assert.deepEqual(vm.calls, [
    'setCapabilities {"postcopy-ram":true}',
    'setParameters {"downtime-limit":50}',
    'migrateIncoming tcp:127.0.0.1:1',
    'close',
  ]);
});

test('runMachine() ends with the number of the signal, and its handlers with it', async () => {
  const listeners = process.listenerCount('SIGINT');
  for (const [signal, expected] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const) {
    const { vm, code, isUp } = start({});
    await isUp;
    process.emit(signal, signal);
    assert.equal(await code, expected);
    assert.equal(vm.calls.pop(), 'close');
  }
  assert.equal(process.listenerCount('SIGINT'), listeners);
});

test('runMachine() ends with 1 when the machine dies', async () => {
  const { vm, code, isUp } = start({});
  await isUp;
  vm.setRunState('shutdown');
  assert.equal(await code, 1);
});

test('runMachine() ends when a client of the monitor quits, and removes the socket', async (t) => {
  const path = join(temporaryFolder(t), 'monitor');
  const { code } = start({ monitor: `unix:${path}` });
  const deadline = Date.now() + 5000;
  while (!existsSync(path) && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 5));
  const socket = connect(path);
  t.after(() => socket.destroy());
  socket.resume();
  socket.write('quit\n');
  assert.equal(await code, 0);
  assert.equal(existsSync(path), false);
});

test('runMachine() fails when a migration fails before its guest runs here', async () => {
  const { vm, code, isUp } = start({ incoming: 'defer' });
  await isUp;
  vm.emit('migration', 'failed');
  vm.end('failed');
  assert.equal(await code, 1);
});

test('runMachine() goes on when an outgoing migration fails', async () => {
  for (const wasIncoming of [false, true]) {
    const { vm, code, isUp } = start(wasIncoming ? { incoming: 'defer' } : {});
    await isUp;
    if (wasIncoming) vm.emit('migration', 'completed');
    vm.emit('migration', 'failed');
    vm.end('failed');
    await new Promise((resolve) => setTimeout(resolve));
    process.emit('SIGINT', 'SIGINT');
    assert.equal(await code, 130);
  }
});

test('runMachine() closes the machine when something cannot be set up', async () => {
  const vm = new FakeVm();
  vm.failure = new VmError('Capability refused');
  const { code } = start({}, vm);
  await assert.rejects(code, { message: 'Capability refused' });
  assert.deepEqual(vm.calls, ['close']);
  await assert.rejects(start({ monitor: 'unix:/nowhere/m' }).code, /^Error: Cannot listen at "\/nowhere\/m"/);
});

test('runMachine() writes serial console and trace to files', async (t) => {
  const folder = temporaryFolder(t);
  const serial = join(folder, 'serial');
  const trace = join(folder, 'trace');
  const { vm, code, isUp } = start({
    serial: `file:${serial}`,
    trace: ['migrate_*', 'postcopy_start'],
    traceFile: trace,
  });
  await isUp;
  assert.deepEqual([...vm.enabledTraces], ['migrate_set_state', 'migrate_pending', 'postcopy_start']);
  vm.emit('serial', Buffer.from('tick 1\n'));
  vm.emit('trace', 'postcopy_start', { cause: 'command', remainingPages: 7 }, 12.5);
  process.emit('SIGINT', 'SIGINT');
  await code;
  assert.equal(readFileSync(serial, 'utf8'), 'tick 1\n');
  assert.equal(readFileSync(trace, 'utf8'), '12.500 postcopy_start cause=command remainingPages=7\n');
});
