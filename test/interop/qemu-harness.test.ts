/**
 * What tests with QEMU rest on: both machine types run our guests whole, with two processors, devices and much memory, and a
 * QEMU moves a guest to another one.
 */
import assert from 'node:assert/strict';
import { truncateSync, writeFileSync } from 'node:fs';
import { suite, test } from 'node:test';
import { assertOneLinux, needsLinux } from '../support/linux-counts.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { assertOneGuest } from '../support/ticks.ts';
import { MOVER, needsQemu, Qemu } from './qemu.ts';

suite('QEMU as a process of a test', { timeout: 400_000 }, () => {
  for (const machine of ['pc', 'q35']) {
    test(`a guest runs in ${machine} with two processors and virtio devices, and moves to another`, async (t) => {
      if (!needsQemu(t)) return;
      const folder = tempFolder(t);
      writeFileSync(`${folder}/disk`, '');
      truncateSync(`${folder}/disk`, 2 ** 20);
      const options = {
        ...{
          program: MOVER,
          machine,
          smp: 2,
          memoryMib: 64,
          rangeMib: 8,
          capabilities: { 'postcopy-ram': true, events: true },
        },
        extraArgs: [
          ...['-netdev', 'user,id=net', '-device', 'virtio-net-pci,netdev=net'],
          ...['-drive', `file=${folder}/disk,format=raw,if=virtio,file.locking=off`],
        ],
      };
      const source = await Qemu.start(t, folder, { ...options, name: 'source' });
      const incoming = `unix:${folder}/migration`;
      const destination = await Qemu.start(t, folder, { ...options, name: 'destination', incoming });
      await source.untilMoreTicks();
      await source.qmp.execute('migrate', { uri: incoming });
      assert.equal(await source.migrationEnd(), 'completed', source.describe());
      await destination.untilMoreTicks();
      const before = await source.proveOneEdge();
      const after = await destination.proveOneEdge();
      assert.equal(after.pagesChecked, 2048);
      assert.equal(after.nonce, before.nonce);
      assertOneGuest(source.console, destination.console);
      assert.equal(await destination.runState(), 'paused');
    });
  }

  test('a guest runs in 2 GiB, and one that is to wait does not', async (t) => {
    if (!needsQemu(t)) return;
    const folder = tempFolder(t);
    const paused = await Qemu.start(t, folder, { name: 'paused', isPaused: true });
    const qemu = await Qemu.start(t, folder, { memoryMib: 2048, rangeMib: 1024 });
    await qemu.untilMoreTicks(1);
    assert.equal((await qemu.proveOneEdge()).pagesChecked, 2 ** 18);
    assert.equal(await paused.runState(), 'prelaunch');
    assert.equal(paused.console, '');
  });

  test('Linux runs in QEMU', async (t) => {
    if (!needsQemu(t) || !needsLinux(t)) return;
    const qemu = await Qemu.start(t, tempFolder(t), { guest: 'linux', memoryMib: 128 });
    await qemu.untilMoreCounts();
    assertOneLinux(qemu.console);
  });
});
