/**
 * Processes that run out of descriptors at every step of a migration: they say so, and the guest runs on where it is.
 */
import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { suite, test } from 'node:test';
import { atEnd } from '../support/cleanup.ts';
import { allowMoreDescriptors, needsDescriptorLimits } from '../support/descriptor-limit.ts';
import { POSTCOPY, proveMove, startSource, untilCompleted } from '../support/pair.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { until } from '../support/until.ts';
import { VmProcess } from '../support/vm-process.ts';

const PLENTY = 500;
const TOO_MANY = /too many open files|EMFILE/;
const MEMORY = ['--memory', '16M', ...POSTCOPY];

suite('descriptors', { timeout: 400_000 }, () => {
  for (const dirtyTracking of ['async', 'sync']) {
    test(`a source without descriptors says so and keeps its guest, ${dirtyTracking} dirty tracking`, async (t) => {
      if (!needsDescriptorLimits(t)) return;
      const folder = tempFolder(t);
      // It takes everything in and says nothing, so that precopy goes on until it is called off.
      const path = join(folder, 'sink');
      const sink = createServer((socket) => socket.on('error', () => {}).resume()).listen(path);
      atEnd(t, () => sink.close());
      const sourceArgs = ['--dirty-tracking', dirtyTracking];
      const source = await startSource(t, folder, { memoryMib: 16, rangeMib: 4, args: POSTCOPY, sourceArgs });
      await source.set({ 'max-bandwidth': 2 ** 20, 'downtime-limit': 0 });
      const failures: string[] = [];
      for (let spare = 0, isEnough = false; !isEnough; spare++) {
        assert(spare < 40, failures.join('\n'));
        allowMoreDescriptors(source.pid, spare);
        const refusal = await source.migrate(`unix:${path}`).then(
          () => undefined,
          (error: Error) => error.message,
        );
        if (refusal !== undefined) {
          failures.push(refusal);
          assert.match(refusal, TOO_MANY, `with ${spare} more: ${source.describe()}`);
          assert.equal(await source.runState(), 'running');
          continue;
        }
        const { status, 'error-desc': why } = await until(
          'the migration to begin or to fail',
          async () => {
            const info = await source.info();
            return info.status === 'failed' || info.status === 'active' ? info : undefined;
          },
          () => source.describe(),
        );
        isEnough = status === 'active';
        if (isEnough) await source.qmp.execute('migrate_cancel');
        else {
          failures.push(why ?? '');
          assert.match(why ?? '', TOO_MANY, `with ${spare} more`);
        }
        assert.equal(await source.runState(), 'running', `with ${spare} more: ${source.stderr}`);
      }
      assert(failures.length > 0);
      assert.doesNotMatch(source.stderr, /internal|\n\s+at /);
      await source.untilMoreTicks();

      allowMoreDescriptors(source.pid, PLENTY);
      const incoming = ['--incoming', `unix:${join(folder, 'incoming')}`];
      const destination = await VmProcess.start(t, folder, 'destination', [...MEMORY, ...incoming]);
      await source.set({ 'max-bandwidth': 0, 'x-postcopy-start-time': 1 });
      await source.migrate(await destination.address());
      const pair = { folder, source, destination, memoryBytes: 16 * 2 ** 20 };
      await untilCompleted(pair);
      await proveMove(pair);
    });
  }

  test('a destination without descriptors says so and ends, and the guest stays at the source', async (t) => {
    if (!needsDescriptorLimits(t)) return;
    const folder = tempFolder(t);
    const source = await startSource(t, folder, { memoryMib: 16, rangeMib: 4, args: POSTCOPY });
    await source.set({ 'max-bandwidth': 2 ** 20, 'downtime-limit': 0 });
    for (const spare of [0, 1, 2, 3, 5, 7, 9]) {
      const name = `with-${spare}`;
      const incoming = ['--incoming', `unix:${join(folder, name)}`];
      const destination = await VmProcess.start(t, folder, name, [...MEMORY, ...incoming]);
      allowMoreDescriptors(destination.pid, spare);
      await source.migrate(await destination.address()).catch(() => {});
      await until(
        'the migration to fail',
        async () => (await source.info()).status === 'failed',
        () => source.describe() + destination.describe(),
      );
      assert.equal(await source.runState(), 'running');
      if (spare === 0) {
        // It cannot even let the source in, which is told by the end of its connection, and waits for another.
        assert.equal((await destination.info()).status, 'setup');
        assert.deepEqual(await destination.quit(), { code: 0, signal: null });
        continue;
      }
      assert.deepEqual(await destination.untilExit(), { code: 1, signal: null }, destination.describe());
      assert.match(destination.stderr, TOO_MANY, name);
      assert.doesNotMatch(destination.stderr, /internal|\n\s+at /);
    }
    await source.untilMoreTicks();
  });
});
