/**
 * A folder for one test, gone when the test is.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { atEnd } from './cleanup.ts';

/** Short, since a socket in it must have a path of at most 107 bytes. */
export function tempFolder(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'pc-'));
  atEnd(t, () => rmSync(folder, { recursive: true, force: true }));
  return folder;
}
