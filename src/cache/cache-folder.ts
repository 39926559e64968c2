/**
 * Where a host keeps what it has fetched.
 *
 * It holds the memory of guests, and what stands in it is believed: nobody else may read or write it.
 */
import { mkdirSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { CacheError } from './cache-error.ts';

/** `$XDG_CACHE_HOME/postcopy`, or `~/.cache/postcopy`. */
export function defaultCacheFolder(environment: NodeJS.ProcessEnv = process.env): string {
  const base = environment['XDG_CACHE_HOME'];
  // The specification says that a relative path there is to be ignored.
  return join(base?.startsWith('/') ? base : join(homedir(), '.cache'), 'postcopy');
}

/** Makes the folder if there is none. @throws {CacheError} */
export function openCacheFolder(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const { uid, mode } = statSync(folder);
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
