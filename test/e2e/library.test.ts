/**
 * The library's virtual machines within one process: that nothing is left of a migration, and that all can be closed.
 */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { createServer } from 'node:net';
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

const resources = () => ({
  fds: readdirSync('/proc/self/fd').length,
  threads: readdirSync('/proc/self/task').length,
});

test('a guest that moves ten times leaves no descriptors and no threads behind', {
  timeout: 120_000,
}, async (t) => {
  const folder = tempFolder(t);
  let guest = await create(t, COUNTER);
  const ways = ['precopy async', 'precopy sync', 'postcopy async', 'postcopy sync'] as const;
  const round = async (number: number) => {
    const way = ways[number % ways.length] ?? ways[0];
    const next = await create(t, {
      memoryBytes,
      incoming: `unix:${join(folder, String(number % 2))}`,
      dirtyTracking: ways[(number + 1) % ways.length]?.endsWith('sync') ? 'sync' : 'async',
    });
    guest.setCapabilities({ 'postcopy-ram': way.startsWith('postcopy') });
    guest.setParameters({
      'downtime-limit': way.startsWith('precopy') ? 2000 : 0,
      'x-postcopy-start-time': 20,
      'max-bandwidth': way.startsWith('precopy') ? 0 : 8 * 2 ** 20,
    });
    await guest.migrate(`unix:${join(folder, String(number % 2))}`);
    assert.equal(await inTime(`migration ${number}`, guest.migrationEnded()), 'completed');
    assert.equal(await inTime(`migration ${number}`, next.migrationEnded()), 'completed');
    assert.equal(next.runState, 'running');
    await inTime('the source to close', guest.close());
    guest = next;
  };
  for (let number = 0; number < 4; number++) await round(number);
  const before = resources();
  for (let number = 4; number < 12; number++) await round(number);
  await until(
    `the ${JSON.stringify(before)} of the start`,
    () => resources().fds <= before.fds && resources().threads <= before.threads,
    () => `there are ${JSON.stringify(resources())}`,
  );
});

test('a source whose peer does not read can be closed at once', { timeout: 60_000 }, async (t) => {
  const path = join(tempFolder(t), 'deaf');
  const server = createServer({ pauseOnConnect: true }).listen(path);
  atEnd(t, () => server.close());
  const source = await create(t, COUNTER);
  await source.migrate(`unix:${path}`);
  let sentBytes = 0;
  let sameCount = 0;
  await until('the connection to be full, so that the source waits in poll(2)', async () => {
    const { transferred = 0 } = (await source.queryMigrate()).ram ?? {};
    sameCount = transferred > 0 && transferred === sentBytes ? sameCount + 1 : 0;
    sentBytes = transferred;
    return sameCount === 20;
  });
  await inTime('the source to close', source.close());
});
