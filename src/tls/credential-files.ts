/**
 * Files of a folder with credentials, by QEMU's names, read whole and at once: what changes later counts for later objects.
 */
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { ObjectError } from './object-properties.ts';

/** More than any certificate chain or list of keys that somebody would use. */
const MAX_FILE_BYTES = 4 * 2 ** 20;

/** @throws {ObjectError} if it is not there, cannot be read, or is far too long */
export function readCredentialFile(dir: string, name: string): string {
  const text = readOptionalFile(dir, name);
  if (text === undefined) throw new ObjectError(`"${join(dir, name)}" is missing`);
  return text;
}

/** @returns undefined if it is not there */
export function readOptionalFile(dir: string, name: string): string | undefined {
  const path = join(dir, name);
  try {
    const stat = statSync(path, { throwIfNoEntry: false });
    if (stat === undefined) return undefined;
    if (stat.size > MAX_FILE_BYTES) throw new Error(`it is longer than ${MAX_FILE_BYTES} bytes`);
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new ObjectError(`"${path}" cannot be read: ${(error as Error).message}`, { cause: error });
  }
}
