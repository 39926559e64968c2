/**
 * `stop` at a guest that waits for a page of a source that does not answer for a while: who asks is not kept waiting, and what
 * was asked for comes about later, unless it was taken back.
 */
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { POSTCOPY, startPair, untilCompleted } from '../support/pair.ts';
import { until } from '../support/until.ts';

suite('late stop', { timeout: 400_000 }, () => {
  test('stop is refused while the guest waits for a page; it stops when that has come, or runs on after cont', async (t) => {
    const pair = await startPair(t, { memoryMib: 32, rangeMib: 16, guest: 'random', args: POSTCOPY });
    const { source, destination } = pair;
    await source.set({ 'max-bandwidth': 512 * 1024, 'max-postcopy-bandwidth': 256 * 1024 });
    await source.migrate(await destination.address());
    await source.untilStatus('active');
    await source.qmp.execute('migrate-start-postcopy');
    await until('the guest to run there', async () => (await destination.runState()) === 'running');

    source.kill('SIGSTOP');
    await assert.rejects(
      destination.qmp.execute('stop'),
      /has not stopped within 2000 ms: it waits for a page/,
    );
    assert.equal(await destination.runState(), 'running');
    source.kill('SIGCONT');
    await until('the guest to stop', async () => (await destination.runState()) === 'paused');
    await destination.qmp.execute('cont');
    assert.equal(await destination.runState(), 'running');

    source.kill('SIGSTOP');
    await assert.rejects(destination.qmp.execute('stop'), /it waits for a page/);
    await destination.qmp.execute('cont');
    source.kill('SIGCONT');
    await source.set({ 'max-postcopy-bandwidth': 0 });
    await untilCompleted(pair);
    await destination.untilMoreTicks();
    assert.equal(await destination.runState(), 'running');
  });
});
