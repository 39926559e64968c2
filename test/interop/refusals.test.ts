/**
 * A QEMU and our machine share the protocol and not their devices: each refuses the other's guest, says why, and the guest
 * runs on where it was.
 */
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { startSource } from '../support/pair.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { until } from '../support/until.ts';
import { VmProcess } from '../support/vm-process.ts';
import { needsQemu, Qemu } from './qemu.ts';

suite('refusals between QEMU and our machine', { timeout: 400_000 }, () => {
  for (const postcopy of [false, true]) {
    const how = postcopy ? 'with postcopy allowed' : 'by precopy';
    test(`a guest of QEMU is refused ${how} by its machine type, and runs on in QEMU`, async (t) => {
      if (!needsQemu(t)) return;
      const folder = tempFolder(t);
      const incoming = ['--memory', '16M', '--incoming', `unix:${folder}/migration`];
      const destination = await VmProcess.start(t, folder, 'destination', incoming);
      const qemu = await Qemu.start(t, folder);
      await qemu.untilMoreTicks();
      await qemu.qmp.execute('migrate-set-capabilities', {
        capabilities: [{ capability: 'postcopy-ram', state: postcopy }],
      });

      // Without a return path QEMU calls a migration complete when all of it is written, also into a socket's buffer.
      await qemu.qmp.execute('migrate-set-parameters', { 'max-bandwidth': 2 ** 20 });
      await qemu.qmp.execute('migrate', { uri: `unix:${folder}/migration` });
      assert.equal(await qemu.migrationEnd(), 'failed');
      assert.deepEqual(await destination.untilExit(), { code: 1, signal: null });
      await destination.untilSaid(/Machine type received is 'pc-i440fx-.*' and local is 'v86-/);
      await qemu.untilMoreTicks();
      const { status } = await qemu.qmp.execute<{ status: string }>('query-status');
      assert.equal(status, 'running');
    });
  }

  test('a guest of ours is refused by QEMU, and runs on here', async (t) => {
    if (!needsQemu(t)) return;
    const folder = tempFolder(t);
    const qemu = await Qemu.start(t, folder, { incoming: `unix:${folder}/migration` });
    const source = await startSource(t, folder, { memoryMib: 16, rangeMib: 4 });

    await source.migrate(`unix:${folder}/migration`);
    await until('the migration to fail', async () => (await source.info()).status === 'failed');
    await qemu.untilEnded();
    assert.match(qemu.stderr, /Machine type received is 'v86-/);
    assert.match(
      (await source.info())['error-desc'] ?? '',
      /Connection lost before the guest was handed over/,
    );
    await source.untilMoreTicks();
    assert.equal(await source.runState(), 'running');
  });
});
