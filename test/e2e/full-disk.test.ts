/**
 * A guest saved to a disk on which it has no room.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { checkMemory, saveMemory } from '../support/guest-memory.ts';
import { startSource } from '../support/pair.ts';
import { mountSmallDisk } from '../support/small-disk.ts';
import { tempFolder } from '../support/temp-folder.ts';

test('a full disk fails the migration, and the guest runs on', { timeout: 60_000 }, async (t) => {
  const folder = tempFolder(t);
  const small = join(folder, 'small');
  if (!mountSmallDisk(t, small)) return;
  const source = await startSource(t, folder, { memoryMib: 32 });

  await source.migrate(`file:${join(small, 'saved')}`);
  await source.untilStatus('failed');

  assert.match((await source.info())['error-desc'] ?? '', /no space is left on the device \(ENOSPC\)/);
  assert.equal(await source.runState(), 'running');
  await source.untilMoreTicks();
  await source.qmp.execute('stop');
  checkMemory(await saveMemory(source, folder, { lengthBytes: 32 * 2 ** 20 }));
  await source.qmp.execute('cont');
  await source.migrate(`file:${join(folder, 'saved')}`);
  await source.untilStatus('completed');
});
