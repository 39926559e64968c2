/**
 * What this host has of one snapshot, kept in files that any number of processes use at once (cache-layout.ts).
 *
 *   open   alone? then the files are made, or checked: bits that a crash of the host has made doubtful are cleared
 *   use    pages are written by offset, then their bits are set; claims say who asks for what
 *   close  the last one sees to it that all is on disk, and marks the files clean
 *
 * Whoever opens or closes holds a lock meanwhile. All of it is synchronous; use it in one thread.
 */
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readFileSync,
  readSync,
  statSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { syncFileData } from '../linux/file-io.ts';
import { tryLockByte, unlockByte } from '../linux/file-lock.ts';
import { type Mapping, mapShared } from '../linux/memory.ts';
import { PageBitmap } from '../memory/page-bitmap.ts';
import type { RamBlockLayout } from '../memory/ram-block.ts';
import { CacheClaims } from './cache-claims.ts';
import { CacheError } from './cache-error.ts';
import { openCacheFolder } from './cache-folder.ts';
import {
  CACHE_MAGIC,
  CACHE_VERSION,
  type CacheLayout,
  cacheLayout,
  HeaderField,
  LockByte,
  MAX_PROCESSES,
} from './cache-layout.ts';

const SETUP_TIMEOUT_MS = 10_000;
const SETUP_POLL_MS = 5;
const ZEROS = Buffer.alloc(1024 * 1024);

export interface PageCacheOptions {
  readonly folder: string;
  /** Of the snapshot, hexadecimal. */
  readonly digest: string;
  readonly blocks: readonly RamBlockLayout[];
  /** Of this boot of the host. Default: the kernel's. */
  readonly bootId?: string;
}

export class PageCache {
  readonly pagesPath: string;
  readonly statePath: string;
  readonly layout: CacheLayout;
  /** Where pages are read and written, at `layout.blocks[…].pagesAt`. */
  readonly pagesFd: number;
  /** A bitmap per block of the pages that are in the file; shared with other processes. */
  readonly present: readonly PageBitmap[];
  readonly claims: CacheClaims;
  readonly #stateFd: number;
  readonly #state: Mapping;
  readonly #view: DataView;
  readonly #process: number;
  #isOpen = true;

  /** @throws {CacheError} if it cannot be used */
  static open(options: PageCacheOptions): PageCache {
    openCacheFolder(options.folder);
    const statePath = join(options.folder, `${options.digest}.state`);
    try {
      return new PageCache(options, statePath);
    } catch (error) {
      if (error instanceof CacheError) throw error;
      const why = (error as Error).message;
      throw new CacheError(`The cache in "${options.folder}" cannot be used: ${why}`, { cause: error });
    }
  }

  private constructor(options: PageCacheOptions, statePath: string) {
    const { folder, digest, blocks, bootId = currentBootId() } = options;
    this.layout = cacheLayout(blocks);
    this.statePath = statePath;
    this.pagesPath = join(folder, `${digest}.pages`);
    const undo: (() => void)[] = [];
    try {
      this.#stateFd = openLocked(statePath);
      undo.push(() => closeSync(this.#stateFd));
      this.pagesFd = openPrivate(this.pagesPath);
      undo.push(() => closeSync(this.pagesFd));
      const isAlone = tryLockByte(this.#stateFd, LockByte.USERS, 'exclusive');
      const why = this.#whyInvalid(digest) ?? (isAlone ? undefined : this.#whyElsewhere(bootId));
      if (why !== undefined) {
        if (!isAlone) throw new CacheError(`The cache file "${statePath}" cannot be used: ${why}`);
        this.#make(digest, bootId);
      }
      this.#state = mapShared(this.#stateFd, this.layout.stateFileBytes);
      undo.push(() => this.#state.unmap());
      this.#view = new DataView(this.#state.bytes.buffer);
      if (isAlone) this.#renew(bootId);
      this.present = this.layout.blocks.map(
        ({ pageCount, presentAt, presentWords }) =>
          new PageBitmap(pageCount, new Int32Array(this.#state.bytes.buffer, presentAt, presentWords)),
      );
      tryLockByte(this.#stateFd, LockByte.USERS, 'shared');
      this.#process = this.#takeNumber();
      this.claims = new CacheClaims(
        this.#claimBytes(),
        this.layout.blocks.map(({ firstPage }) => firstPage),
        this.present,
        this.#stateFd,
        this.#process,
      );
      unlockByte(this.#stateFd, LockByte.SETUP);
    } catch (error) {
      for (const action of undo.reverse()) action();
      throw error;
    }
  }

  /**
   * Gives the files back; the last one who does makes them safe, which may take as long as the disk needs. May be called
   * twice, and never fails: what could not be made safe is fetched again after a crash of the host.
   */
  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    try {
      this.claims.releaseAll();
      if (waitForSetup(this.#stateFd)) {
        unlockByte(this.#stateFd, LockByte.FIRST_PROCESS + this.#process);
        if (tryLockByte(this.#stateFd, LockByte.USERS, 'exclusive')) this.#makeSafe();
      }
    } catch {
      // A disk that cannot be written, for one.
    } finally {
      this.#state.unmap();
      closeSync(this.pagesFd);
      closeSync(this.#stateFd);
    }
  }

  /** @returns why the files are not those of this snapshot, in this version; undefined if they are */
  #whyInvalid(digest: string): string | undefined {
    const state = readHeader(this.#stateFd);
    if (state.magic !== CACHE_MAGIC) return 'it is no state file';
    if (state.version !== CACHE_VERSION) return `it is of version ${state.version}, not ${CACHE_VERSION}`;
    if (state.digest !== digest || state.pages !== this.layout.pages) return 'it is of another snapshot';
    if (fstatSync(this.#stateFd).size !== this.layout.stateFileBytes) return 'its length is wrong';
    const pages = readHeader(this.pagesFd);
    const isWhole = fstatSync(this.pagesFd).size === this.layout.pagesFileBytes;
    const isOurs = pages.magic === CACHE_MAGIC && pages.nonce === state.nonce && isWhole;
    return isOurs ? undefined : `"${this.pagesPath}" does not belong to it`;
  }

  /** Who uses the files now must do so on this host: what one maps is not what another one does. */
  #whyElsewhere(bootId: string): string | undefined {
    return readHeader(this.#stateFd).bootId === bootId ? undefined : 'another host uses it';
  }

  /** Makes both files anew, without any page. The state takes its room on disk now: it is written through a mapping. */
  #make(digest: string, bootId: string): void {
    const nonce = randomBytes(HeaderField.NONCE.lengthBytes);
    const header = Buffer.alloc(4096);
    header.write(CACHE_MAGIC, HeaderField.MAGIC.at, 'latin1');
    header.writeUInt32LE(CACHE_VERSION, HeaderField.VERSION.at);
    nonce.copy(header, HeaderField.NONCE.at);
    ftruncateSync(this.pagesFd, 0);
    writeSync(this.pagesFd, header, 0, header.length, 0);
    ftruncateSync(this.pagesFd, this.layout.pagesFileBytes);

    ftruncateSync(this.#stateFd, 0);
    const { stateFileBytes } = this.layout;
    for (let at = 0; at < stateFileBytes; ) {
      at += writeSync(this.#stateFd, ZEROS, 0, Math.min(ZEROS.length, stateFileBytes - at), at);
    }
    header.write(bootId, HeaderField.BOOT_ID.at, 'latin1');
    header.write(digest, HeaderField.DIGEST.at, 'latin1');
    header.writeBigUInt64LE(BigInt(this.layout.pages), HeaderField.PAGES.at);
    syncFileData(this.#stateFd);
    writeSync(this.#stateFd, header, 0, header.length, 0);
    fsyncSync(this.pagesFd);
    fsyncSync(this.#stateFd);
  }

  /** We are the only user: nobody has asked for anything, and what a crash has made doubtful goes. */
  #renew(bootId: string): void {
    const { bytes } = this.#state;
    this.#claimBytes().fill(0);
    const { at, lengthBytes } = HeaderField.BOOT_ID;
    const known = Buffer.from(bytes.subarray(at, at + lengthBytes)).toString('latin1');
    const isClean = this.#view.getUint32(HeaderField.CLEAN.at, true) === 1;
    const [first] = this.layout.blocks;
    if (!isClean && known !== bootId && first !== undefined)
      bytes.fill(0, first.presentAt, this.layout.claimsAt);
    bytes.set(Buffer.from(bootId, 'latin1'), at);
    this.#view.setUint32(HeaderField.CLEAN.at, 0, true);
    syncFileData(this.#stateFd);
  }

  #makeSafe(): void {
    syncFileData(this.pagesFd);
    syncFileData(this.#stateFd);
    this.#view.setUint32(HeaderField.CLEAN.at, 1, true);
    syncFileData(this.#stateFd);
  }

  #takeNumber(): number {
    for (let number = 1; number <= MAX_PROCESSES; number++) {
      if (tryLockByte(this.#stateFd, LockByte.FIRST_PROCESS + number, 'exclusive')) return number;
    }
    throw new CacheError(
      `The cache file "${this.statePath}" is in use by ${MAX_PROCESSES} processes already`,
    );
  }

  #claimBytes(): Uint8Array {
    return this.#state.bytes.subarray(this.layout.claimsAt, this.layout.claimsAt + this.layout.pages);
  }
}

/** The state file, with its set-up lock held. One that was removed before we had the lock is not it. */
function openLocked(path: string): number {
  for (;;) {
    const fd = openPrivate(path);
    try {
      if (!waitForSetup(fd)) {
        throw new CacheError(
          `The cache file "${path}" is being opened or closed by a process that does not come to an end`,
        );
      }
      if (isStillThere(path, fd)) return fd;
    } catch (error) {
      closeSync(fd);
      throw error;
    }
    closeSync(fd);
  }
}

function isStillThere(path: string, fd: number): boolean {
  const mine = fstatSync(fd);
  const there = statSync(path, { throwIfNoEntry: false });
  return there?.ino === mine.ino && there.dev === mine.dev;
}

function openPrivate(path: string): number {
  return openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
}

/** @returns false if another process holds it too long */
function waitForSetup(fd: number): boolean {
  const endsAtMs = performance.now() + SETUP_TIMEOUT_MS;
  while (!tryLockByte(fd, LockByte.SETUP, 'exclusive')) {
    if (performance.now() > endsAtMs) return false;
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, SETUP_POLL_MS);
  }
  return true;
}

function readHeader(fd: number) {
  const header = Buffer.alloc(4096);
  readSync(fd, header, 0, header.length, 0);
  const text = (
    { at, lengthBytes }: { at: number; lengthBytes: number },
    encoding: 'latin1' | 'hex' = 'latin1',
  ) => header.toString(encoding, at, at + lengthBytes);
  return {
    magic: text(HeaderField.MAGIC),
    version: header.readUInt32LE(HeaderField.VERSION.at),
    nonce: text(HeaderField.NONCE, 'hex'),
    bootId: text(HeaderField.BOOT_ID),
    digest: text(HeaderField.DIGEST),
    pages: Number(header.readBigUInt64LE(HeaderField.PAGES.at)),
  };
}

function currentBootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
}
