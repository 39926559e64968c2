/**
 * A file that gets its name when it is whole: written beside its place, synchronised to disk, renamed.
 *
 *   .web1.snap.4711-1.partial     while it is written; what a crash leaves behind
 *   web1.snap                     once everything in it is on the disk
 *
 * Both names are in one folder, so the rename is one step: under its own name there is the whole file, or what was there before.
 */
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  fsyncSync,
  lstatSync,
  openSync,
  realpathSync,
  renameSync,
  rmSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { renameNoReplace } from '../linux/file-io.ts';
import { isSystemError } from '../linux/system-error-text.ts';
import { SnapshotError, withPath } from './snapshot-error.ts';

/** It holds the guest's memory: nobody else's business. */
const MODE = 0o600;
const MAX_NAMES = 1000;

export class PartialFile {
  /** As the caller named it. */
  readonly path: string;
  readonly partialPath: string;
  readonly fd: number;
  readonly #target: string;
  readonly #mayReplace: boolean;
  #state: 'open' | 'done' = 'open';

  /**
   * @param mayReplace whether a file that is there may be replaced
   * @throws {SnapshotError} `EXISTS`, `SYSTEM`
   */
  constructor(path: string, mayReplace: boolean) {
    this.path = path;
    this.#mayReplace = mayReplace;
    this.#target = withPath('write', path, () => resolveTarget(path, mayReplace));
    [this.partialPath, this.fd] = withPath('write', path, () => openBeside(this.#target));
  }

  /**
   * Synchronises the file and gives it its name; `fd` is closed then.
   *
   * @throws {SnapshotError} `EXISTS`, `SYSTEM`; then the file still has to be abandoned
   */
  finish(): void {
    withPath('write', this.path, () => {
      fsyncSync(this.fd);
      this.#rename();
      this.#state = 'done';
      closeSync(this.fd);
      synchroniseFolder(dirname(this.#target));
    });
  }

  /**
   * Removes the file unless it was finished. May be called twice.
   *
   * @throws {SnapshotError} `SYSTEM`
   */
  abandon(): void {
    if (this.#state === 'done') return;
    this.#state = 'done';
    withPath('write', this.path, () => {
      closeSync(this.fd);
      rmSync(this.partialPath, { force: true });
    });
  }

  #rename(): void {
    if (this.#mayReplace) {
      renameSync(this.partialPath, this.#target);
      return;
    }
    try {
      if (renameNoReplace(this.partialPath, this.#target)) return;
    } catch (error) {
      throw isSystemError(error) && error.code === 'EEXIST' ? alreadyThere(this.path) : error;
    }
    if (existsSync(this.#target)) throw alreadyThere(this.path);
    renameSync(this.partialPath, this.#target);
  }
}

/**
 * Whether a file could be written there, as far as that can be told before.
 *
 * @throws {SnapshotError} `EXISTS`, `SYSTEM`
 */
export function checkTarget(path: string, mayReplace: boolean): void {
  withPath('write', path, () => {
    const target = resolveTarget(path, mayReplace);
    accessSync(dirname(target), constants.W_OK | constants.X_OK);
  });
}

/** Follows a link, and refuses what a rename should not replace. */
function resolveTarget(path: string, mayReplace: boolean): string {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return path;
  if (!mayReplace) throw alreadyThere(path);
  const target = realpathSync(path);
  if (lstatSync(target).isFile()) return target;
  throw new SnapshotError(
    'EXISTS',
    `Cannot write snapshot "${path}": it is there and not a regular file`,
    path,
  );
}

function alreadyThere(path: string): SnapshotError {
  const message = `Cannot write snapshot "${path}": there is a file of that name already`;
  return new SnapshotError('EXISTS', message, path);
}

function openBeside(target: string): [path: string, fd: number] {
  const flags = constants.O_RDWR | constants.O_CREAT | constants.O_EXCL;
  for (let number = 1; ; number++) {
    const path = join(dirname(target), `.${basename(target)}.${process.pid}-${number}.partial`);
    try {
      return [path, openSync(path, flags, MODE)];
    } catch (error) {
      // One that was left behind, or one that is being written now.
      if (!isSystemError(error) || error.code !== 'EEXIST' || number === MAX_NAMES) throw error;
    }
  }
}

/** So that the new name is on the disk as well. Some file systems cannot, and need not. */
function synchroniseFolder(path: string): void {
  const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    fsyncSync(fd);
  } catch (error) {
    if (!isSystemError(error) || error.code !== 'EINVAL') throw error;
  } finally {
    closeSync(fd);
  }
}
