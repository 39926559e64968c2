/**
 * What a virtual machine says of itself when things overlap or go wrong: a crash, a migration called off while it connects,
 * one after another, a close in the middle.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { VirtualMachine, type VirtualMachineOptions } from '../../src/vm/virtual-machine.ts';
import { atEnd } from '../support/cleanup.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { inTime, until } from '../support/until.ts';

const memoryBytes = 16 * 2 ** 20;
const COUNTER = {
  memoryBytes,
  kernelPath: fileURLToPath(new URL('../../../guests/counter.bin', import.meta.url)),
  commandLine: 'range=8M',
};

async function create(t: TestContext, options: VirtualMachineOptions): Promise<VirtualMachine> {
  const vm = await VirtualMachine.create(options);
  atEnd(t, () => vm.close());
  return vm;
}

/** A multiboot kernel that does what it must not: `ud2`, without an interrupt table. */
function crashingKernel(): Uint8Array {
  const base = 0x100000;
  const bytes = new Uint8Array(34);
  const header = [
    0x1badb002,
    0x10000,
    -(0x1badb002 + 0x10000),
    base,
    base,
    base + bytes.length,
    0,
    base + 32,
  ];
  const view = new DataView(bytes.buffer);
  for (const [index, word] of header.entries()) view.setUint32(index * 4, word, true);
  bytes.set([0x0f, 0x0b], 32);
  return bytes;
}

test('a guest that crashes is not called running, and cannot be let run on', {
  timeout: 60_000,
}, async (t) => {
  const kernelPath = join(tempFolder(t), 'crash.bin');
  writeFileSync(kernelPath, crashingKernel());
  for (let round = 0; round < 5; round++) {
    const vm = await create(t, { memoryBytes, kernelPath, isPaused: true });
    const messages: string[] = [];
    vm.on('message', (text) => messages.push(text));
    await vm.cont();
    await until(
      'the crash',
      () => messages.some((text) => /The guest crashed/.test(text)),
      () => `there is ${vm.runState}: ${messages.join(', ')}`,
    );
    assert.equal(vm.runState, 'internal-error');
    await assert.rejects(vm.cont(), /its state is "internal-error"/);
    await inTime('the machine to close', vm.close());
  }
});

test('a second migration shows nothing of the first', { timeout: 60_000 }, async (t) => {
  const folder = tempFolder(t);
  const path = join(folder, 'deaf');
  const server = createServer({ pauseOnConnect: true }).listen(path);
  atEnd(t, () => server.close());
  const vm = await create(t, COUNTER);
  await vm.migrate(`unix:${path}`);
  await until('something to be sent', async () => ((await vm.queryMigrate()).ram?.transferred ?? 0) > 0);
  await vm.migrateCancel();

  await assert.rejects(vm.migrate(`unix:${folder}/nobody`), /nobody/);

  const { status, ram, 'error-desc': why } = await vm.queryMigrate();
  assert.equal(status, 'failed');
  assert.equal(ram, undefined);
  assert.match(why ?? '', /nobody/);
  await inTime('the machine to close', vm.close());
});

test('a migration cancelled while its command starts sends nothing, and leaves the next one alone', {
  timeout: 60_000,
}, async (t) => {
  const folder = tempFolder(t);
  const vm = await create(t, { ...COUNTER, isPaused: true });
  const cancelled = assert.rejects(vm.migrate(`exec:cat > ${folder}/first`), /cancelled/);
  await vm.migrateCancel();
  assert.equal((await vm.queryMigrate()).status, 'cancelled');

  const statuses: string[] = [];
  vm.on('migration', (status) => statuses.push(status));
  await Promise.all([vm.migrate(`exec:cat > ${folder}/second`), cancelled]);

  assert.equal(await inTime('the second migration', vm.migrationEnded()), 'completed');
  assert.equal(statuses.filter((status) => status === 'setup').length, 1);
  assert(
    statuses.every((status) => !['cancelled', 'failed'].includes(status)),
    statuses.join(', '),
  );
  assert.equal(readFileSync(join(folder, 'first')).length, 0);
  assert(readFileSync(join(folder, 'second')).length > 0);
});

test('a machine that is closed while a command starts begins no migration', {
  timeout: 60_000,
}, async (t) => {
  const vm = await create(t, { ...COUNTER, isPaused: true });
  const fds = readdirSync('/proc/self/fd').length;
  const refused = assert.rejects(vm.migrate('exec:cat > /dev/null'), /closed|cancelled/);
  await inTime('the machine to close', vm.close());
  await inTime('the refusal', refused);
  await until(
    `at most ${fds} descriptors`,
    () => readdirSync('/proc/self/fd').length <= fds,
    () => `there are ${readdirSync('/proc/self/fd').length}`,
    5000,
  );
});

test('where it is not known who has the guest, a recovery may be tried, until an operator says "cont"', {
  timeout: 60_000,
}, async (t) => {
  const path = join(tempFolder(t), 'deaf');
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on('error', () => {}).resume();
  }).listen(path);
  atEnd(t, () => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const vm = await create(t, COUNTER);
  const said: string[] = [];
  vm.on('message', (text) => said.push(text));
  const statuses: string[] = [];
  vm.on('migration', (status) => statuses.push(status));
  const untilStatus = (status: string) =>
    until(
      status,
      () => statuses.at(-1) === status,
      () => `${statuses}: ${said.join('\n')}`,
    );
  vm.setCapabilities({ 'postcopy-ram': true });
  await vm.migrate(`unix:${path}`);
  await vm.migrateStartPostcopy();
  await untilStatus('postcopy-active');
  await assert.rejects(vm.cont(), /stands still for the migration/);
  sockets[0]?.destroy();
  await untilStatus('postcopy-paused');
  assert.equal(vm.runState, 'paused');
  assert.match(said.at(-1) ?? '', /look there, and continue here with "cont" only if it does not/);

  await vm.migrate(`unix:${path}`, { resume: true });
  await untilStatus('postcopy-recover');
  assert.equal(vm.runState, 'finish-migrate');
  await assert.rejects(vm.cont(), /stands still for the migration/);
  await assert.rejects(vm.migrateCancel(), /cannot cancel/);
  await vm.migratePause();
  await untilStatus('postcopy-paused');
  assert.equal(vm.runState, 'paused');

  await vm.cont();
  assert.equal(vm.runState, 'running');
  assert.equal(statuses.at(-1), 'failed');
  await assert.rejects(vm.migrate(`unix:${path}`, { resume: true }), /no paused migration/);
  await inTime('the machine to close', vm.close());
});

test('machines can be closed that wait for a recovery, and give everything back', {
  timeout: 60_000,
}, async (t) => {
  const folder = tempFolder(t);
  const source = await create(t, { ...COUNTER, commandLine: 'range=8M' });
  const destination = await create(t, { memoryBytes, incoming: `unix:${folder}/a` });
  const fds = readdirSync('/proc/self/fd').length;
  source.setCapabilities({ 'postcopy-ram': true });
  source.setParameters({ 'max-postcopy-bandwidth': 200_000 });
  await source.migrate(`unix:${folder}/a`);
  await source.migrateStartPostcopy();
  const isPaused = (vm: VirtualMachine) => async () => (await vm.queryMigrate()).status === 'postcopy-paused';
  await until('the guest to arrive', () => destination.runState === 'running');
  await source.migratePause();
  await until('the source to be paused', isPaused(source));
  await until('the destination to be paused', isPaused(destination));
  await destination.migrateRecover(`unix:${folder}/b`);
  assert.deepEqual((await destination.queryMigrate())['socket-address'], [`unix:${folder}/b`]);
  await destination.migrateRecover(`unix:${folder}/c`);

  await assert.rejects(source.migrate('exec:cat > /dev/null', { resume: true }), /return path/);
  await inTime('the source to close', source.close());
  await inTime('the destination to close', destination.close());
  await until(
    `fewer than ${fds} descriptors`,
    () => readdirSync('/proc/self/fd').length < fds,
    () => `there are ${readdirSync('/proc/self/fd').length}`,
    5000,
  );
});
