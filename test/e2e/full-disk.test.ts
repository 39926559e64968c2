/**
 * A guest saved to a disk on which it has no room.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { atEnd } from '../support/cleanup.ts';
import { checkMemory, saveMemory } from '../support/guest-memory.ts';
import { startSource } from '../support/pair.ts';
import { skipUnless } from '../support/requirements.ts';
import { tempFolder } from '../support/temp-folder.ts';

/** Mounts a file system of 4 MiB. @returns why it cannot, if so */
function mountSmall(t: TestContext, path: string): string | undefined {
  mkdirSync(path);
  const { status, stderr, error } = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', path]);
  if (status !== 0) return `a tmpfs cannot be mounted: ${error?.message ?? stderr}`;
  atEnd(t, () => spawnSync('umount', ['-l', path]));
  return undefined;
}

test('a full disk fails the migration, and the guest runs on', { timeout: 60_000 }, async (t) => {
  const folder = tempFolder(t);
  const small = join(folder, 'small');
  const whyNot = mountSmall(t, small);
  if (!skipUnless(t, 'a small file system', whyNot === undefined, whyNot ?? '')) return;
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
