/**
 * A disk on which there is little room, for what must not go wrong when it is full.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import type { TestContext } from 'node:test';
import { atEnd } from './cleanup.ts';
import { skipUnless } from './requirements.ts';

/** Mounts a file system of some MiB. @returns whether it can; if not, the test has been marked as skipped */
export function mountSmallDisk(t: TestContext, path: string, sizeMib = 4): boolean {
  mkdirSync(path);
  const options = ['-t', 'tmpfs', '-o', `size=${sizeMib}m`, 'tmpfs', path];
  const { status, stderr, error } = spawnSync('mount', options);
  const why = `a tmpfs cannot be mounted: ${error?.message ?? stderr}`;
  if (!skipUnless(t, 'a small file system', status === 0, why)) return false;
  atEnd(t, () => spawnSync('umount', ['-l', path]));
  return true;
}
