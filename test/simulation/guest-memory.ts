/**
 * Guest memory of the simulation: a number per page, 0 for a page of zeros, written into the page so that a page in the
 * wrong place, or half a page, is seen.
 */
import type { PageBitmap } from '../../src/memory/page-bitmap.ts';
import { type RamBlockLayout, TARGET_PAGE_BYTES } from '../../src/memory/ram-block.ts';
import type { DestinationMemory } from '../../src/migration/destination-ports.ts';
import type { DirtyTracker, SourceMemory } from '../../src/migration/source-ports.ts';
import { pageCountOf } from './scenario.ts';
import type { World } from './world.ts';

/** Pages of all blocks in a row. */
export class PageNumbers {
  readonly count: number;
  readonly blocks: readonly RamBlockLayout[];
  readonly #firstPages: readonly number[];

  constructor(blocks: readonly RamBlockLayout[]) {
    this.blocks = blocks;
    let first = 0;
    this.#firstPages = blocks.map(({ lengthBytes }) => {
      first += lengthBytes / TARGET_PAGE_BYTES;
      return first - lengthBytes / TARGET_PAGE_BYTES;
    });
    this.count = pageCountOf(blocks);
  }

  at(block: number, offset: number): number {
    return (this.#firstPages[block] as number) + offset / TARGET_PAGE_BYTES;
  }

  /** Block number and offset of a page. */
  place(page: number): { block: number; offset: number } {
    const block = this.#firstPages.findLastIndex((first) => first <= page);
    return { block, offset: (page - (this.#firstPages[block] as number)) * TARGET_PAGE_BYTES };
  }
}

export class SourceGuestMemory implements SourceMemory, DirtyTracker {
  readonly blocks: readonly RamBlockLayout[];
  readonly values: Uint32Array;
  readonly #world: World;
  readonly #pages: PageNumbers;
  readonly #onRead: (block: number, page: number) => void;
  readonly #touched: Uint8Array;
  readonly #dirty = new Set<number>();
  #isTracking = false;

  /** @param onRead told of every page that is read */
  constructor(world: World, pages: PageNumbers, onRead: (block: number, page: number) => void = () => {}) {
    this.blocks = pages.blocks;
    this.#world = world;
    this.#pages = pages;
    this.#onRead = onRead;
    this.values = new Uint32Array(pages.count);
    this.#touched = new Uint8Array(pages.count);
  }

  write(page: number, value: number): void {
    this.values[page] = value;
    this.#touched[page] = 1;
    if (this.#isTracking) this.#dirty.add(page);
  }

  copyPage(block: number, offset: number, target: Uint8Array, at: number): void {
    const page = this.#read(block, offset);
    const view = new DataView(target.buffer, target.byteOffset + at, TARGET_PAGE_BYTES);
    view.setUint32(0, this.values[page] as number);
    view.setUint32(4, page);
    view.setUint32(TARGET_PAGE_BYTES - 4, this.values[page] as number);
  }

  isZeroPage(block: number, offset: number): boolean {
    return this.values[this.#read(block, offset)] === 0;
  }

  start(touched: readonly PageBitmap[]): void {
    this.#isTracking = true;
    this.#touched.forEach((isTouched, page) => {
      const { block, offset } = this.#pages.place(page);
      if (isTouched === 1) touched[block]?.set(offset / TARGET_PAGE_BYTES);
    });
  }

  sync(dirty: readonly PageBitmap[]): void {
    if (!this.#isTracking) this.#world.violate('tracking', 'sync() without start()');
    for (const page of this.#dirty) {
      const { block, offset } = this.#pages.place(page);
      dirty[block]?.set(offset / TARGET_PAGE_BYTES);
    }
    this.#dirty.clear();
  }

  stop(): void {
    this.#isTracking = false;
    this.#dirty.clear();
  }

  #read(block: number, offset: number): number {
    const page = this.#pages.at(block, offset);
    this.#onRead(block, offset / TARGET_PAGE_BYTES);
    if (this.#touched[page] === 0)
      this.#world.violate('untouched', `page ${page} was read although never touched`);
    return page;
  }
}

const MISSING = -1;

export class DestinationGuestMemory implements DestinationMemory {
  readonly blocks: readonly RamBlockLayout[];
  /** What each page holds; `MISSING` if the guest would fault on it. */
  readonly values: Float64Array;
  /** Called for every page that becomes present after `listen()`. */
  onPlaced: (page: number, value: number) => void = () => {};
  readonly #world: World;
  readonly #pages: PageNumbers;
  readonly #view: DataView;
  readonly #placed: Uint8Array;
  #phase: 'precopy' | 'discards' | 'listening' | 'ended' = 'precopy';

  constructor(world: World, pages: PageNumbers, buffer: Uint8Array) {
    this.blocks = pages.blocks;
    this.#world = world;
    this.#pages = pages;
    this.#view = new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength);
    this.values = new Float64Array(pages.count).fill(MISSING);
    this.#placed = new Uint8Array(pages.count);
  }

  get isListening(): boolean {
    return this.#phase === 'listening';
  }

  isMissing(page: number): boolean {
    return this.values[page] === MISSING;
  }

  get missingPages(): number {
    return this.values.reduce((sum, value) => sum + (value === MISSING ? 1 : 0), 0);
  }

  checkPostcopy(): void {}

  dropAll(): void {
    this.#expect('precopy');
    this.values.fill(MISSING);
  }

  writePage(block: number, offset: number, position: number): void {
    this.#expect('precopy');
    const page = this.#pages.at(block, offset);
    this.values[page] = this.#valueAt(position, page);
  }

  writeZeroPage(block: number, offset: number): void {
    this.#expect('precopy');
    this.values[this.#pages.at(block, offset)] = 0;
  }

  prepareDiscards(): void {
    this.#expect('precopy');
    this.#phase = 'discards';
  }

  discard(block: number, offset: number, lengthBytes: number): void {
    this.#expect('discards');
    const page = this.#pages.at(block, offset);
    this.values.fill(MISSING, page, page + lengthBytes / TARGET_PAGE_BYTES);
  }

  listen(): void {
    this.#expect('discards');
    this.#phase = 'listening';
  }

  placePage(block: number, offset: number, position: number): 'placed' | 'exists' {
    const page = this.#pages.at(block, offset);
    return this.#place(page, this.#valueAt(position, page));
  }

  placeZeroPage(block: number, offset: number): 'placed' | 'exists' {
    return this.#place(this.#pages.at(block, offset), 0);
  }

  end(): void {
    this.#expect('listening');
    this.#phase = 'ended';
    if (this.missingPages > 0) this.#world.violate('missing', `${this.missingPages} pages at the end`);
  }

  #place(page: number, value: number): 'placed' | 'exists' {
    this.#expect('listening');
    if (this.#placed[page] === 1) this.#world.violate('placed twice', `page ${page}`);
    this.#placed[page] = 1;
    if (!this.isMissing(page)) return 'exists';
    this.values[page] = value;
    this.onPlaced(page, value);
    return 'placed';
  }

  #valueAt(position: number, page: number): number {
    const value = this.#view.getUint32(position);
    const isWhole = this.#view.getUint32(position + TARGET_PAGE_BYTES - 4) === value;
    if (this.#view.getUint32(position + 4) !== page || !isWhole)
      this.#world.violate('content', `what came for page ${page} is not that page`);
    return value;
  }

  #expect(phase: string): void {
    if (this.#phase !== phase) this.#world.violate('order', `memory is ${this.#phase}, must be ${phase}`);
  }
}
