/**
 * Whole migrations whose threads are ended in the middle: the guest comes through, and is where it should be.
 *
 * Both machines are in this process, since another's threads cannot be reached. Ended without a word, a thread gives nothing
 * back and says nothing, which is more than a mistake of ours would do.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Worker } from 'node:worker_threads';
import { VirtualMachine, type VirtualMachineOptions } from '../../src/vm/virtual-machine.ts';
import { atEnd } from '../support/cleanup.ts';
import { checkMemory } from '../support/guest-memory.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { inTime, until } from '../support/until.ts';

const memoryBytes = 32 * 2 ** 20;
const GUEST = {
  memoryBytes,
  kernelPath: fileURLToPath(new URL('../../../guests/random.bin', import.meta.url)),
  commandLine: 'range=16M',
};
const LIMIT = { timeout: 120_000 };

interface Machine {
  readonly vm: VirtualMachine;
  readonly said: string[];
}

async function create(t: TestContext, options: VirtualMachineOptions): Promise<Machine> {
  const vm = await VirtualMachine.create(options);
  const said: string[] = [];
  vm.on('message', (text) => said.push(text));
  atEnd(t, () => vm.close());
  return { vm, said };
}

/** Two machines in a migration, and the threads that it has started: those of source and destination first. */
async function migrate(t: TestContext, maxBandwidth: number, dirtyTracking: 'auto' | 'sync' = 'auto') {
  const folder = tempFolder(t);
  const source = await create(t, { ...GUEST, dirtyTracking });
  let serialBytes = 0;
  source.vm.on('serial', (bytes) => {
    serialBytes += bytes.length;
  });
  await until('the guest to be at work', () => serialBytes > 0);
  const destination = await create(t, { memoryBytes, incoming: `unix:${join(folder, 'socket')}` });
  for (const { vm } of [source, destination]) vm.setParameters({ 'x-reconnect-ms': 200 });
  source.vm.setCapabilities({ 'postcopy-ram': true });
  source.vm.setParameters({ 'max-bandwidth': maxBandwidth, 'downtime-limit': 0 });
  const threads: Worker[] = [];
  const onWorker = (worker: Worker) => threads.push(worker);
  process.on('worker', onWorker);
  atEnd(t, () => process.off('worker', onWorker));
  await source.vm.migrate(`unix:${join(folder, 'socket')}`);
  await until('the migration to begin', async () => (await source.vm.queryMigrate()).status === 'active');
  return { folder, source, destination, threads };
}

const statusOf = async ({ vm }: Machine) => (await vm.queryMigrate()).status;
const deathsOf = ({ said }: Machine) => said.filter((text) => /^A migration thread died/.test(text)).length;

async function untilBoth(machines: readonly Machine[], status: string): Promise<void> {
  await until(
    `both to be "${status}"`,
    async () => (await Promise.all(machines.map(statusOf))).every((each) => each === status),
    () => machines.map(({ vm, said }) => `${vm.runState}: ${said.join('\n')}`).join('\n'),
  );
}

test('threads that end in the middle of a postcopy cost nothing but time', LIMIT, async (t) => {
  const { folder, source, destination, threads } = await migrate(t, 2 ** 20);
  const both = [source, destination];
  source.vm.setParameters({ 'max-postcopy-bandwidth': 512 * 1024 });
  await source.vm.migrateStartPostcopy();
  await until('the guest to run there', () => destination.vm.runState === 'running');
  await untilBoth(both, 'postcopy-active');

  // Which of the two is whose the test need not know: each side loses one.
  for (const [index, thread] of threads.slice(0, 2).entries()) {
    await thread.terminate();
    await until('its end to be noticed', () => deathsOf(source) + deathsOf(destination) === index + 1);
    await untilBoth(both, 'postcopy-active');
    assert.equal(destination.vm.runState, 'running');
  }
  assert.deepEqual(both.map(deathsOf), [1, 1]);
  source.vm.setParameters({ 'max-postcopy-bandwidth': 0 });
  await untilBoth(both, 'completed');
  assert.equal(source.vm.runState, 'postmigrate');
  await destination.vm.stop();
  await destination.vm.saveMemory(0, memoryBytes, join(folder, 'memory'));
  checkMemory(readFileSync(join(folder, 'memory')));
});

test('a thread that ends in precopy costs the migration, and the guest runs on', LIMIT, async (t) => {
  const { folder, source, destination, threads } = await migrate(t, 2 ** 20);
  for (const thread of threads.slice(0, 2)) await thread.terminate();
  assert.equal(await inTime('the source', source.vm.migrationEnded()), 'failed');
  assert.equal(await inTime('the destination', destination.vm.migrationEnded()), 'failed');
  assert.equal(source.vm.runState, 'running');
  assert.equal(destination.vm.runState, 'inmigrate');
  await source.vm.stop();
  await source.vm.saveMemory(0, memoryBytes, join(folder, 'memory'));
  checkMemory(readFileSync(join(folder, 'memory')));

  // Nothing is left of it that the next one would meet.
  const uri = `unix:${join(folder, 'next')}`;
  const next = await create(t, { memoryBytes, incoming: uri });
  source.vm.setParameters({ 'max-bandwidth': 0, 'downtime-limit': 300 });
  await source.vm.cont();
  await source.vm.migrate(uri);
  await untilBoth([source, next], 'completed');
  await next.vm.stop();
  await next.vm.saveMemory(0, memoryBytes, join(folder, 'moved'));
  checkMemory(readFileSync(join(folder, 'moved')));
});

test(
  'a thread that ends and was to note writes costs the migration, and the guest runs on',
  LIMIT,
  async (t) => {
    const { folder, source, destination, threads } = await migrate(t, 2 ** 20, 'sync');
    // The destination takes the connection before the source has threads; of those this one is the first.
    await threads[1]?.terminate();
    await until('the source to fail', async () => (await statusOf(source)) === 'failed');
    assert.equal(await inTime('the destination', destination.vm.migrationEnded()), 'failed');
    assert.equal(deathsOf(source), 1);
    assert.equal(source.vm.runState, 'running');
    let serialBytes = 0;
    source.vm.on('serial', (bytes) => {
      serialBytes += bytes.length;
    });
    await until('the guest to be at work again', () => serialBytes > 0);
    await source.vm.stop();
    await source.vm.saveMemory(0, memoryBytes, join(folder, 'memory'));
    checkMemory(readFileSync(join(folder, 'memory')));
  },
);
