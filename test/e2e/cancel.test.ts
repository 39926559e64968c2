/**
 * Migrations that are taken back: the guest goes on at the source as if nothing had been.
 */
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { checkMemory, saveMemory } from '../support/guest-memory.ts';
import { POSTCOPY, proveMove, SLOW, startPair, untilCompleted } from '../support/pair.ts';
import { assertOneGuest } from '../support/ticks.ts';
import { VmProcess } from '../support/vm-process.ts';

suite('cancel', { timeout: 400_000 }, () => {
  for (const dirtyTracking of ['async', 'sync']) {
    test(`migrate_cancel leaves the guest where it is, and it can move later, ${dirtyTracking} dirty tracking`, async (t) => {
      const pair = await startPair(t, { args: POSTCOPY, sourceArgs: ['--dirty-tracking', dirtyTracking] });
      const { folder, source, destination, memoryBytes } = pair;
      await source.set(SLOW);
      await source.migrate(await destination.address());
      await source.untilStatus('active');
      await source.untilMoreTicks();

      await source.qmp.execute('migrate_cancel');

      assert.deepEqual(source.qmp.migrationStatuses, ['setup', 'active', 'cancelling', 'cancelled']);
      assert.equal(await source.runState(), 'running');
      assert.deepEqual(await destination.untilExit(), { code: 1, signal: null });
      await source.untilMoreTicks();
      await source.qmp.execute('stop');
      checkMemory(await saveMemory(source, folder, { lengthBytes: memoryBytes }));
      assertOneGuest(source.console);
      await source.qmp.execute('cont');

      const second = await VmProcess.start(t, folder, 'second', [
        '--memory',
        '64M',
        ...POSTCOPY,
        '--incoming',
        'tcp:127.0.0.1:0',
      ]);
      await source.set({ 'max-bandwidth': 0, 'x-postcopy-start-time': 1 });
      await source.migrate(await second.address());
      const again = { ...pair, destination: second };
      await untilCompleted(again);
      await proveMove(again);
    });
  }

  test('migrate_cancel is refused once the guest runs at the destination', async (t) => {
    const pair = await startPair(t, { args: POSTCOPY });
    const { source, destination } = pair;
    await source.set({ ...SLOW, 'max-postcopy-bandwidth': 2 ** 20 });
    await source.migrate(await destination.address());
    await source.untilStatus('active');
    await source.qmp.execute('migrate-start-postcopy');
    await source.untilStatus('postcopy-active');

    await assert.rejects(
      source.qmp.execute('migrate_cancel'),
      /Postcopy migration in progress, cannot cancel/,
    );
    await assert.rejects(
      source.qmp.execute('cont'),
      /stands still for the migration|runs at the destination/,
    );
    await source.set({ 'max-postcopy-bandwidth': 0 });
    await untilCompleted(pair);
    await proveMove(pair);
  });
});
