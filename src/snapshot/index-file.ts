/**
 * The index of a stream file, kept beside it as `<file>.index` so that the stream is read through only once.
 *
 *   byte  size  type    field (little-endian, as every host is that we run on)
 *   0     8     ascii   "PCINDEX1"; another version has another digit
 *   8     8     f64     length of the stream file in bytes
 *   16    8     u64     when it was modified, in nanoseconds since 1970
 *   24    4     u32     length of the JSON
 *   28    n     utf8    JSON: `IndexedStream` without the pages
 *   …           u32     per block: the words of the bitmap of pages with content,
 *               f64     and where each page with content stands in the file, in their order
 *   end   32            SHA-256 of all before
 *
 * An index that is not exactly right, or not of this very file, is as good as none. It is written to another name and
 * renamed; where it cannot be written there is none.
 */
import { createHash } from 'node:crypto';
import { type BigIntStats, readFileSync, statSync, writeSync } from 'node:fs';
import { isSystemError } from '../linux/system-error-text.ts';
import { PageBitmap } from '../memory/page-bitmap.ts';
import { TARGET_PAGE_BYTES, type WireRamBlock } from '../wire/ram-record.ts';
import { PartialFile } from './partial-file.ts';
import type { SnapshotBlockData } from './snapshot.ts';
import { SnapshotError } from './snapshot-error.ts';

/** What is known of a stream file that has been read through. */
export interface IndexedStream {
  /** Where in the file the stream begins. */
  readonly offset: number;
  readonly machineType: string;
  readonly uuid: Uint8Array | undefined;
  readonly ramSectionId: number;
  readonly blocks: readonly SnapshotBlockData[];
  /** Where in the file the device sections begin, and how long they are. */
  readonly deviceSections: FileRange;
  readonly vmDescription: FileRange | undefined;
}

export interface FileRange {
  readonly offset: number;
  readonly lengthBytes: number;
}

/** The state of a file that an index is of. */
export type FileState = Pick<BigIntStats, 'size' | 'mtimeNs'>;

const MAGIC = Buffer.from('PCINDEX1');
const HEADER_BYTES = 8 + 8 + 8 + 4;
const CHECKSUM_BYTES = 32;
/** Besides the tables: names of blocks and the like. */
export const MAX_JSON_BYTES = 4 * 1024 * 1024;
const MAX_INDEX_BYTES = 2 ** 31 - 1;

export const indexPath = (streamPath: string): string => `${streamPath}.index`;

/** Writes the index if it can be written. */
export function saveIndex(streamPath: string, state: FileState, stream: IndexedStream): void {
  let file: PartialFile | undefined;
  try {
    file = new PartialFile(indexPath(streamPath), true);
    const bytes = encodeIndex(state, stream);
    for (let done = 0; done < bytes.length; ) done += writeSync(file.fd, bytes, done);
    file.finish();
  } catch (error) {
    // A folder that is not ours to write to, a full disk: the next open reads the stream again.
    if (!(error instanceof SnapshotError) && !isSystemError(error)) throw error;
    file?.abandon();
  }
}

/**
 * @param state of the stream file now
 * @param offset where in the file the stream is to begin
 * @returns undefined if there is no index of this very file
 */
export function loadIndex(streamPath: string, state: FileState, offset: number): IndexedStream | undefined {
  let bytes: Buffer;
  try {
    const path = indexPath(streamPath);
    const stat = statSync(path);
    if (!stat.isFile() || stat.size > MAX_INDEX_BYTES) return undefined;
    bytes = readFileSync(path);
  } catch (error) {
    if (isSystemError(error)) return undefined;
    throw error;
  }
  const stream = decodeIndex(bytes, state);
  return stream?.offset === offset ? stream : undefined;
}

export function encodeIndex({ size, mtimeNs }: FileState, stream: IndexedStream): Uint8Array {
  const { blocks, uuid, ...rest } = stream;
  const json = Buffer.from(
    JSON.stringify({
      ...rest,
      uuid: uuid === undefined ? undefined : Buffer.from(uuid).toString('hex'),
      blocks: blocks.map(({ idstr, lengthBytes, pageSizeBytes }) => ({ idstr, lengthBytes, pageSizeBytes })),
    }),
  );
  const header = Buffer.alloc(HEADER_BYTES);
  MAGIC.copy(header);
  header.writeDoubleLE(Number(size), 8);
  header.writeBigUInt64LE(mtimeNs, 16);
  header.writeUInt32LE(json.length, 24);
  const body = Buffer.concat([header, json, ...blocks.flatMap(encodeTables)]);
  return Buffer.concat([body, createHash('sha256').update(body).digest()]);
}

/** @returns undefined if the bytes are not an index, or of a file in another state */
export function decodeIndex(bytes: Buffer, { size, mtimeNs }: FileState): IndexedStream | undefined {
  const bodyBytes = bytes.length - CHECKSUM_BYTES;
  if (bodyBytes < HEADER_BYTES || !bytes.subarray(0, MAGIC.length).equals(MAGIC)) return undefined;
  if (bytes.readDoubleLE(8) !== Number(size) || bytes.readBigUInt64LE(16) !== mtimeNs) return undefined;
  const checksum = createHash('sha256').update(bytes.subarray(0, bodyBytes)).digest();
  if (!checksum.equals(bytes.subarray(bodyBytes))) return undefined;
  const jsonBytes = bytes.readUInt32LE(24);
  if (jsonBytes > Math.min(MAX_JSON_BYTES, bodyBytes - HEADER_BYTES)) return undefined;
  const meta = parseMeta(bytes.toString('utf8', HEADER_BYTES, HEADER_BYTES + jsonBytes), Number(size));
  if (meta === undefined) return undefined;

  const tables = new TableReader(bytes.subarray(HEADER_BYTES + jsonBytes, bodyBytes), Number(size));
  const blocks: SnapshotBlockData[] = [];
  for (const layout of meta.blocks) {
    const data = tables.take(layout);
    if (data === undefined) return undefined;
    blocks.push(data);
  }
  return tables.isAtEnd ? { ...meta, blocks } : undefined;
}

function encodeTables({ contentWords, offsets, lengthBytes }: SnapshotBlockData): Buffer[] {
  const bitmap = new PageBitmap(lengthBytes / TARGET_PAGE_BYTES, contentWords);
  const words = Buffer.alloc(contentWords.length * 4);
  for (const [index, word] of contentWords.entries()) words.writeInt32LE(word, index * 4);
  const places = Buffer.alloc(bitmap.count() * 8);
  let at = 0;
  for (let page = bitmap.nextSet(0); page >= 0; page = bitmap.nextSet(page + 1)) {
    const place =
      typeof offsets === 'number' ? offsets + page * TARGET_PAGE_BYTES : (offsets[page] as number);
    at = places.writeDoubleLE(place, at);
  }
  return [words, places];
}

class TableReader {
  readonly #bytes: Buffer;
  readonly #fileBytes: number;
  #position = 0;

  constructor(bytes: Buffer, fileBytes: number) {
    this.#bytes = bytes;
    this.#fileBytes = fileBytes;
  }

  get isAtEnd(): boolean {
    return this.#position === this.#bytes.length;
  }

  /** The tables of the next block, or undefined if they are not there or wrong. */
  take(layout: WireRamBlock): SnapshotBlockData | undefined {
    const pageCount = layout.lengthBytes / TARGET_PAGE_BYTES;
    const words = this.#takeBytes(PageBitmap.wordCount(pageCount) * 4);
    if (words === undefined) return undefined;
    const bitmap = PageBitmap.shared(pageCount);
    bitmap.words.set(new Int32Array(words));
    const places = this.#takeBytes(bitmap.count() * 8);
    if (places === undefined) return undefined;
    const offsets = placePages(bitmap, new Float64Array(places), this.#fileBytes - TARGET_PAGE_BYTES);
    return offsets && { ...layout, contentWords: bitmap.words, offsets };
  }

  /** A copy of the next bytes, which begins where typed arrays may. */
  #takeBytes(lengthBytes: number): ArrayBuffer | undefined {
    const start = this.#position;
    if (lengthBytes > this.#bytes.length - start) return undefined;
    this.#position += lengthBytes;
    return new Uint8Array(this.#bytes.subarray(start, start + lengthBytes)).buffer;
  }
}

/** Spreads the places over the pages with content. @returns undefined if one is not in the file */
function placePages(bitmap: PageBitmap, places: Float64Array, maxOffset: number): Float64Array | undefined {
  for (const place of places) if (!(place >= 0 && place <= maxOffset)) return undefined;
  const offsets = new Float64Array(new SharedArrayBuffer(bitmap.pageCount * 8));
  let taken = 0;
  bitmap.forEachRun((firstPage, pageCount) => {
    offsets.set(places.subarray(taken, taken + pageCount), firstPage);
    taken += pageCount;
  });
  return offsets;
}

type Meta = Omit<IndexedStream, 'blocks'> & { readonly blocks: readonly WireRamBlock[] };

/** The checksum says that we wrote it; this says that it makes sense. */
function parseMeta(text: string, fileBytes: number): Meta | undefined {
  let meta: Partial<Record<keyof IndexedStream, unknown>>;
  try {
    meta = JSON.parse(text);
  } catch {
    return undefined;
  }
  const { offset, machineType, uuid, ramSectionId, blocks, deviceSections, vmDescription } = meta;
  if (!isCount(offset) || typeof machineType !== 'string' || !isCount(ramSectionId)) return undefined;
  if (uuid !== undefined && !(typeof uuid === 'string' && /^[0-9a-f]{32}$/.test(uuid))) return undefined;
  if (!Array.isArray(blocks) || !blocks.every(isLayout)) return undefined;
  if (!isRange(deviceSections, fileBytes)) return undefined;
  if (vmDescription !== undefined && !isRange(vmDescription, fileBytes)) return undefined;
  return {
    offset,
    machineType,
    uuid: uuid === undefined ? undefined : Buffer.from(uuid, 'hex'),
    ramSectionId,
    blocks,
    deviceSections,
    vmDescription,
  };
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

function isLayout(value: unknown): value is WireRamBlock {
  const { idstr, lengthBytes, pageSizeBytes } = (value ?? {}) as Partial<Record<keyof WireRamBlock, unknown>>;
  const isWhole = isCount(lengthBytes) && lengthBytes > 0 && lengthBytes % TARGET_PAGE_BYTES === 0;
  return typeof idstr === 'string' && isWhole && isCount(pageSizeBytes);
}

function isRange(value: unknown, fileBytes: number): value is FileRange {
  const { offset, lengthBytes } = (value ?? {}) as Partial<Record<keyof FileRange, unknown>>;
  return isCount(offset) && isCount(lengthBytes) && offset + lengthBytes <= fileBytes;
}
