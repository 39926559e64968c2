/**
 * Whole migrations by precopy, between two processes.
 */
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { saveMemory } from '../support/guest-memory.ts';
import { POSTCOPY, proveMove, quitBoth, startPair, untilCompleted } from '../support/pair.ts';
import { assertOneGuest } from '../support/ticks.ts';
import { until } from '../support/until.ts';

suite('precopy', { timeout: 400_000 }, () => {
  for (const { guest, dirtyTracking } of [
    { guest: 'counter', dirtyTracking: 'async' },
    { guest: 'counter', dirtyTracking: 'sync' },
    { guest: 'random', dirtyTracking: 'async' },
    { guest: 'reader', dirtyTracking: 'sync' },
  ] as const) {
    test(`precopy moves the ${guest} guest, ${dirtyTracking} dirty tracking`, async (t) => {
      const pair = await startPair(t, { guest, sourceArgs: ['--dirty-tracking', dirtyTracking] });
      const { source, destination } = pair;
      await source.set({ 'downtime-limit': 2000 });

      await source.migrate(await destination.address());
      await untilCompleted(pair);

      await proveMove(pair);
      assert.deepEqual(destination.qmp.eventNames.slice(0, 4), ['active', 'RESUME', 'completed', 'STOP']);
      const { ram, downtime } = await source.info();
      assert.equal(ram?.remaining, 0);
      assert.equal(typeof downtime, 'number');
      await quitBoth(pair);
    });
  }

  test('precopy sends the events of QEMU in its order', async (t) => {
    const pair = await startPair(t);
    await pair.source.set({ 'downtime-limit': 2000 });
    await pair.source.migrate(await pair.destination.address());
    await untilCompleted(pair);
    const names = pair.source.qmp.eventNames;
    assert.deepEqual(names.slice(0, 3), ['setup', 'PASS 1', 'active']);
    assert.match(names.slice(-4).join(', '), /^STOP, PASS \d+, device, completed$/);
    const passes = names.filter((name) => name.startsWith('PASS')).map((name) => Number(name.slice(5)));
    assert.deepEqual(
      passes,
      [...new Set(passes)].sort((a, b) => a - b),
      'passes are counted upwards',
    );
  });

  test('a paused guest stays paused at the destination, its memory equal to the last byte', async (t) => {
    const pair = await startPair(t);
    const { folder, source, destination, memoryBytes } = pair;
    await source.qmp.execute('stop');
    const stoodFromMs = performance.now();
    const console = source.console;

    await source.migrate(await destination.address());
    await untilCompleted(pair);

    assert.equal(await destination.runState(), 'paused');
    assert.equal(await source.runState(), 'postmigrate');
    assert(!destination.qmp.eventNames.includes('RESUME'));
    const [before, after] = await Promise.all([
      saveMemory(source, folder, { lengthBytes: memoryBytes }),
      saveMemory(destination, folder, { lengthBytes: memoryBytes }),
    ]);
    assert(before.equals(after), 'the memory differs');
    assert.equal(source.console, console);
    assert.equal(destination.console, '');

    // Time in which the guest stood still is none for it.
    await until('two seconds', () => performance.now() - stoodFromMs > 2000);
    await destination.qmp.execute('cont');
    await destination.untilTicks(2);
    assertOneGuest(source.console, destination.console);
    const [last, first] = [source.ticks.at(-1), destination.ticks[0]];
    assert((first?.ms ?? 0) - (last?.ms ?? 0) < 1500, `guest time went on: ${last?.ms} to ${first?.ms} ms`);
    await quitBoth(pair);
  });

  test('a destination told to stay paused keeps the memory of the source to the last byte', async (t) => {
    const pair = await startPair(t, { guest: 'random', destinationArgs: ['--paused'] });
    const { folder, source, destination, memoryBytes } = pair;
    await source.set({ 'downtime-limit': 2000 });
    await source.migrate(await destination.address());
    await untilCompleted(pair);

    assert.equal(await destination.runState(), 'paused');
    const before = await saveMemory(source, folder, { lengthBytes: memoryBytes });
    const after = await saveMemory(destination, folder, { lengthBytes: memoryBytes });
    assert(before.equals(after), 'the memory differs');
    await destination.qmp.execute('cont');
    await proveMove(pair);
  });

  test('a migration that converges first stays precopy, with postcopy enabled', async (t) => {
    const pair = await startPair(t, { args: POSTCOPY });
    const { source, destination } = pair;
    await source.set({ 'downtime-limit': 2000, 'x-postcopy-start-time': 30_000 });
    await source.migrate(await destination.address());
    await untilCompleted(pair);
    await proveMove(pair);
    assert(!source.qmp.migrationStatuses.includes('postcopy-active'));
    assert(!destination.qmp.migrationStatuses.includes('postcopy-active'));
    assert.equal((await source.info())['x-postcopy-cause'], undefined);
  });
});
