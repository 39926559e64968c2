/**
 * Whole migrations that switch to postcopy, between two processes.
 */
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { saveMemory } from '../support/guest-memory.ts';
import {
  POSTCOPY,
  proveMemory,
  proveMove,
  quitBoth,
  SLOW,
  startPair,
  untilCompleted,
} from '../support/pair.ts';
import { until } from '../support/until.ts';

suite('postcopy', { timeout: 400_000 }, () => {
  for (const { guest, dirtyTracking, memoryMib } of [
    { guest: 'counter', dirtyTracking: 'async', memoryMib: 64 },
    { guest: 'counter', dirtyTracking: 'sync', memoryMib: 128 },
    { guest: 'random', dirtyTracking: 'sync', memoryMib: 64 },
  ] as const) {
    test(`the ${guest} guest of ${memoryMib} MiB that does not converge switches by itself, ${dirtyTracking} dirty tracking`, async (t) => {
      const sourceArgs = ['--dirty-tracking', dirtyTracking];
      const pair = await startPair(t, { guest, memoryMib, args: POSTCOPY, sourceArgs });
      const { source, destination } = pair;
      await source.set({ ...SLOW, 'downtime-limit': 1, 'x-postcopy-start-time': 500 });

      await source.migrate(await destination.address());
      await untilCompleted(pair);

      await proveMove(pair);
      assert.equal((await source.info())['x-postcopy-cause'], 'start-time');
      const destinationEvents = destination.qmp.eventNames.slice(0, 5);
      assert.deepEqual(destinationEvents, [
        'active',
        'postcopy-device',
        'postcopy-active',
        'RESUME',
        'completed',
      ]);
      await quitBoth(pair);
    });
  }

  test('migrate-start-postcopy switches at once, and pages are asked for and pushed', async (t) => {
    const pair = await startPair(t, { guest: 'random', args: POSTCOPY });
    const { source, destination } = pair;
    await source.set({ ...SLOW, 'max-postcopy-bandwidth': 8 * 2 ** 20 });
    await source.migrate(await destination.address());
    await source.untilStatus('active');
    await source.qmp.execute('migrate-start-postcopy');
    await untilCompleted(pair);

    await proveMove(pair);
    const sent = await source.info();
    const received = await destination.info();
    assert.equal(sent['x-postcopy-cause'], 'command');
    assert((received['x-pages-demanded'] ?? 0) > 0, 'no page was asked for');
    assert((received['x-pages-pushed'] ?? 0) > 0, 'no page was pushed');
    assert((received['x-guest-downtime-us'] ?? 0) > 0);
    await quitBoth(pair);
  });

  test('postcopy sends the events of QEMU in its order', async (t) => {
    const pair = await startPair(t, { args: POSTCOPY, incoming: 'defer' });
    await pair.destination.qmp.execute('migrate-incoming', { uri: 'tcp:127.0.0.1:0' });
    await pair.source.set(SLOW);
    await pair.source.migrate(await pair.destination.address());
    await pair.source.untilStatus('active');
    await pair.source.qmp.execute('migrate-start-postcopy');
    await untilCompleted(pair);
    const names = pair.source.qmp.eventNames;
    assert.deepEqual(names, [
      'setup',
      'PASS 1',
      'active',
      'STOP',
      'PASS 2',
      'device',
      'postcopy-device',
      'postcopy-active',
      'completed',
    ]);
    const there = ['setup', 'active', 'postcopy-device', 'postcopy-active', 'RESUME', 'completed'];
    assert.deepEqual(pair.destination.qmp.eventNames, there);
  });

  test('a paused guest moves by postcopy and stays paused, its memory equal to the last byte', async (t) => {
    const pair = await startPair(t, { args: POSTCOPY });
    const { folder, source, destination, memoryBytes } = pair;
    await source.qmp.execute('stop');
    await source.set(SLOW);
    await source.migrate(await destination.address());
    await source.untilStatus('active');
    await source.qmp.execute('migrate-start-postcopy');
    await untilCompleted(pair);

    assert.equal(await destination.runState(), 'paused');
    const before = await saveMemory(source, folder, { lengthBytes: memoryBytes });
    const after = await saveMemory(destination, folder, { lengthBytes: memoryBytes });
    assert(before.equals(after), 'the memory differs');
    await destination.qmp.execute('cont');
    await proveMove(pair);
  });

  test('a paused guest can be let run at the destination before all its pages have come', async (t) => {
    const pair = await startPair(t, { args: POSTCOPY });
    const { source, destination } = pair;
    await source.qmp.execute('stop');
    await source.set({ ...SLOW, 'max-postcopy-bandwidth': 512 * 1024 });
    await source.migrate(await destination.address());
    await source.untilStatus('active');
    await source.qmp.execute('migrate-start-postcopy');
    await destination.untilStatus('postcopy-active');

    await until('the guest to be there', async () => (await destination.runState()) === 'paused');
    await destination.qmp.execute('cont');
    await destination.untilTicks(1);
    assert.equal((await destination.info()).status, 'postcopy-active');
    await source.set({ 'max-postcopy-bandwidth': 0 });
    await untilCompleted(pair);
    await proveMove(pair);
  });

  test('each process of a 256 MiB guest stays within guest memory and 150 MB', async (t) => {
    const memoryMib = 256;
    const pair = await startPair(t, { memoryMib, rangeMib: 240, args: POSTCOPY });
    const { source, destination } = pair;
    await source.set({ 'max-bandwidth': 64 * 2 ** 20, 'downtime-limit': 1 });
    await source.migrate(await destination.address());
    await source.untilStatus('active');
    await source.qmp.execute('migrate-start-postcopy');
    await untilCompleted(pair);
    for (const vm of [source, destination]) {
      const overMb = (bytes: number) => Math.round((bytes - memoryMib * 2 ** 20) / 1e6);
      const describe = () => {
        const { now, peak } = vm.residentBytes;
        return `${vm.name}: ${overMb(now)} MB over guest memory, ${overMb(peak)} MB at the most`;
      };
      // The threads of the migration may be on their way out still.
      await until('memory to settle', () => overMb(vm.residentBytes.now) <= 150, describe);
      t.diagnostic(describe());
      assert(overMb(vm.residentBytes.peak) <= 150, describe());
    }
    await destination.untilTicks(1);
    await destination.qmp.execute('stop');
    await proveMemory(pair);
  });
});
