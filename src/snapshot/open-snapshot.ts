/**
 * Opens a snapshot: a mapped-ram file, ours or QEMU's, or the file that QEMU's `migrate "exec:cat > file"` makes.
 *
 * Nothing in the file is believed before it was checked, and of what is wrong the error says what and where.
 */
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { PageBitmap } from '../memory/page-bitmap.ts';
import type { AnnouncedRamBlock } from '../wire/announced-blocks-decoder.ts';
import { mappedRamBitmapBytes } from '../wire/mapped-ram.ts';
import { TARGET_PAGE_BYTES, ZERO_RECORD_CONTINUE_BYTES } from '../wire/ram-record.ts';
import { StreamError, type StreamErrorCode } from '../wire/stream-error.ts';
import { type FileScan, scanFile } from './file-scan.ts';
import { describeForeignFile, FOREIGN_MAGIC_BYTES } from './foreign-file.ts';
import { type FileRange, type IndexedStream, loadIndex, saveIndex } from './index-file.ts';
import { PageIndex } from './page-index.ts';
import { openBlock, type Snapshot, type SnapshotBlockData, type SnapshotFormat } from './snapshot.ts';
import { SnapshotError, type SnapshotErrorCode, withPath } from './snapshot-error.ts';

export interface OpenSnapshotOptions {
  /** Where in the file the migration stream begins, in bytes: 0 unless it is in a file of someone's own. */
  readonly offset?: number;
  /** Called while a stream file is read that has no index yet. */
  readonly onProgress?: (readBytes: number, fileBytes: number) => void;
}

/** Pages that a source may leave out without a record: 64 GiB. Without a limit a small file could ask for any table. */
const MAX_PAGES_LEFT_OUT = 2 ** 24;

/**
 * @throws {SnapshotError} `NOT_A_SNAPSHOT`, `DAMAGED`, `TRUNCATED`, `UNSUPPORTED`, `SYSTEM`
 */
export function openSnapshot(path: string, options: OpenSnapshotOptions = {}): Snapshot {
  return withPath('read', path, () => {
    // O_NONBLOCK so that a named pipe is refused and not waited for.
    const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      return openFd(path, fd, options);
    } catch (error) {
      closeSync(fd);
      throw error instanceof StreamError ? streamFailure(path, error) : error;
    }
  });
}

function openFd(path: string, fd: number, { offset = 0, onProgress }: OpenSnapshotOptions): Snapshot {
  const state = fstatSync(fd, { bigint: true });
  if (!state.isFile()) {
    const what = state.isDirectory() ? 'it is a directory' : 'it is not a regular file';
    throw new SnapshotError('NOT_A_SNAPSHOT', `Cannot read snapshot "${path}": ${what}`, path);
  }
  const fileBytes = Number(state.size);
  const foreign = describeForeignFile(readRange(fd, { offset, lengthBytes: FOREIGN_MAGIC_BYTES }));
  if (foreign !== undefined) {
    throw new SnapshotError('NOT_A_SNAPSHOT', `Cannot read snapshot "${path}": ${foreign}`, path);
  }
  const indexed = loadIndex(path, state, offset);
  if (indexed !== undefined) return snapshotOf(path, fd, 'stream', indexed);

  let pages: PageIndex | undefined;
  const scan = scanFile({
    ...{ fd, fileBytes, offset },
    makePages: (blocks) => (pages = makePageIndex(blocks, fileBytes)),
    onProgress: onProgress && ((readBytes) => onProgress(readBytes, fileBytes)),
  });
  const blocks =
    pages?.blockData() ?? inMemory(scan.blocks, () => scan.blocks.map((block) => readMappedBlock(fd, block)));
  const stream = describeScan(scan, offset, blocks);
  const after = fstatSync(fd, { bigint: true });
  if (after.size !== state.size || after.mtimeNs !== state.mtimeNs) {
    throw new SnapshotError('DAMAGED', `Cannot read snapshot "${path}": it changed while it was read`, path);
  }
  if (!scan.isMappedRam) saveIndex(path, state, stream);
  return snapshotOf(path, fd, scan.isMappedRam ? 'mapped-ram' : 'stream', stream);
}

function makePageIndex(blocks: readonly AnnouncedRamBlock[], fileBytes: number): PageIndex {
  const pageCount = blocks.reduce((sum, { lengthBytes }) => sum + lengthBytes / TARGET_PAGE_BYTES, 0);
  const maxPages = Math.floor(fileBytes / ZERO_RECORD_CONTINUE_BYTES) + MAX_PAGES_LEFT_OUT;
  if (pageCount > maxPages) {
    const what = `RAM of ${pageCount} pages is announced, but the file has room for no more than the records of ${maxPages}`;
    throw new StreamError('LIMIT', what, 0);
  }
  return inMemory(blocks, () => new PageIndex(blocks));
}

/** Makes tables for the pages of blocks, or says that there is no room for them. */
function inMemory<Table>(blocks: readonly AnnouncedRamBlock[], make: () => Table): Table {
  try {
    return make();
  } catch (error) {
    if (!(error instanceof RangeError) || error instanceof StreamError) throw error;
    const totalBytes = blocks.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
    throw new StreamError('LIMIT', `There is no memory for the tables of ${totalBytes} bytes of RAM`, 0);
  }
}

/** The bitmap of a block, in shared memory. */
function readMappedBlock(
  fd: number,
  { idstr, lengthBytes, pageSizeBytes, mapped }: AnnouncedRamBlock,
): SnapshotBlockData {
  if (mapped === undefined)
    throw new StreamError('UNSUPPORTED', `RAM block "${idstr}" is not in the file`, 0);
  const range = { offset: mapped.bitmapOffset, lengthBytes: mappedRamBitmapBytes(lengthBytes) };
  const bytes = readRange(fd, range);
  if (bytes.length < range.lengthBytes) {
    throw new StreamError('TRUNCATED', `The file ends in the bitmap of RAM block "${idstr}"`, range.offset);
  }
  const { words: contentWords } = PageBitmap.shared(lengthBytes / TARGET_PAGE_BYTES);
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  for (let word = 0; word < contentWords.length; word++) contentWords[word] = view.getInt32(word * 4, true);
  return { idstr, lengthBytes, pageSizeBytes, contentWords, offsets: mapped.pagesOffset };
}

function describeScan(scan: FileScan, offset: number, blocks: readonly SnapshotBlockData[]): IndexedStream {
  const { configuration, ramSectionId, tail, tailOffset } = scan;
  const { machineType, uuid } = configuration;
  const deviceSections = { offset: tailOffset, lengthBytes: tail.deviceSections.length };
  const vmDescription =
    tail.vmDescription === undefined
      ? undefined
      : {
          offset: tailOffset + tail.vmDescription.byteOffset - tail.deviceSections.byteOffset,
          lengthBytes: tail.vmDescription.length,
        };
  return { offset, machineType, uuid, ramSectionId, blocks, deviceSections, vmDescription };
}

function snapshotOf(path: string, fd: number, format: SnapshotFormat, stream: IndexedStream): Snapshot {
  const { machineType, uuid, ramSectionId, vmDescription } = stream;
  let isOpen = true;
  return {
    ...{ path, fd, format, machineType, uuid, ramSectionId },
    blocks: stream.blocks.map(openBlock),
    deviceSections: readRange(fd, stream.deviceSections),
    vmDescription: vmDescription && readRange(fd, vmDescription),
    close() {
      if (isOpen) closeSync(fd);
      isOpen = false;
    },
  };
}

/** The bytes of a range of the file, fewer if the file ends in it. */
function readRange(fd: number, { offset, lengthBytes }: FileRange): Uint8Array {
  const bytes = new Uint8Array(lengthBytes);
  let done = 0;
  while (done < lengthBytes) {
    const count = readSync(fd, bytes, done, lengthBytes - done, offset + done);
    if (count === 0) break;
    done += count;
  }
  return bytes.subarray(0, done);
}

const CODES: Partial<Record<StreamErrorCode, SnapshotErrorCode>> = {
  BAD_MAGIC: 'NOT_A_SNAPSHOT',
  TRUNCATED: 'TRUNCATED',
  UNSUPPORTED: 'UNSUPPORTED',
  LIMIT: 'UNSUPPORTED',
};

function streamFailure(path: string, error: StreamError): SnapshotError {
  const code = CODES[error.code] ?? 'DAMAGED';
  return new SnapshotError(code, `Cannot read snapshot "${path}": ${error.message}`, path, error);
}
