/**
 * The guests of guests/ are not made for one machine: in QEMU they boot, count, and keep the same books.
 */
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { checkMemory } from '../support/guest-memory.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { needsQemu, Qemu } from './qemu.ts';

const MEMORY_BYTES = 16 * 2 ** 20;

suite('guests in QEMU', { timeout: 400_000 }, () => {
  for (const guest of ['counter', 'random', 'reader'] as const) {
    test(`the ${guest} guest runs in QEMU and its memory is right`, async (t) => {
      if (!needsQemu(t)) return;
      const qemu = await Qemu.start(t, tempFolder(t), { guest });
      await qemu.untilMoreTicks(3);
      await qemu.qmp.execute('stop');
      const report = checkMemory(await qemu.saveMemory(MEMORY_BYTES));
      assert.equal(report.guest, guest);
      assert.equal(report.pagesChecked, 1024);
      assert.equal(Number.parseInt(qemu.ticks[0]?.nonce ?? '', 16), report.nonce);
    });
  }
});
