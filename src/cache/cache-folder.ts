/**
 * Where a host keeps what it has fetched.
 *
 * It holds the memory of guests, and what stands in it is believed: nobody else may read or write it.
 */
import { mkdirSync, statfsSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { CacheError } from './cache-error.ts';

/** `$XDG_CACHE_HOME/postcopy`, or `~/.cache/postcopy`. */
export function defaultCacheFolder(environment: NodeJS.ProcessEnv = process.env): string {
  const base = environment['XDG_CACHE_HOME'];
  // The specification says that a relative path there is to be ignored.
  return join(base?.startsWith('/') ? base : join(homedir(), '.cache'), 'postcopy');
}

/** Values of `statfs(2)`: what two hosts map there is not the same memory. */
const NETWORK_FILE_SYSTEMS: Readonly<Record<number, string>> = {
  26985: 'NFS',
  20859: 'SMB',
  4283649346: 'CIFS',
  4266872130: 'SMB2',
  12805120: 'Ceph',
  1397113167: 'AFS',
};

/** Makes the folder if there is none. @throws {CacheError} */
export function openCacheFolder(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const { uid, mode } = statSync(folder);
    const network = NETWORK_FILE_SYSTEMS[statfsSync(folder).type];
    if (network !== undefined) {
      const advice = 'give --cache a folder on a disk of this host';
      throw new CacheError(`The cache folder "${folder}" cannot be used: it is on ${network}; ${advice}`);
    }
    const isOthers = uid !== process.geteuid?.();
    if (isOthers || (mode & 0o022) !== 0) {
      const why = isOthers ? "it is somebody else's" : 'others can write to it';
      throw new CacheError(`The cache folder "${folder}" cannot be used: ${why}`);
    }
  } catch (error) {
    if (error instanceof CacheError) throw error;
    throw new CacheError(`The cache folder "${folder}" cannot be used: ${(error as Error).message}`, {
      cause: error,
    });
  }
}
