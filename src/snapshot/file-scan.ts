/**
 * Reads a file with a migration in it from its first byte to its last: what a snapshot needs to know, and whether it is whole.
 *
 * Both formats are streams (see mapped-ram-layout.ts), so both are read here. The pages of a mapped-ram file are passed
 * over; those of a plain stream are told to `pages`, one after the other. What no guest can be restored from is refused: a
 * postcopy, pages that are elsewhere, deltas.
 */
import { readSync } from 'node:fs';
import type { AnnouncedRamBlock } from '../wire/announced-blocks-decoder.ts';
import type { DecodedCommand } from '../wire/commands.ts';
import { type DeviceTail, DeviceTailCollector } from '../wire/device-tail.ts';
import { OpenStreamDecoder, type StreamConfiguration } from '../wire/open-stream-decoder.ts';
import { TARGET_PAGE_BYTES } from '../wire/ram-record.ts';
import { IGNORE_SHARED_CAPABILITY, MAPPED_RAM_CAPABILITY } from '../wire/sections.ts';
import { StreamError } from '../wire/stream-error.ts';

/** The pages of a plain stream, in its order. */
export interface ScannedPages {
  /** @param fileOffset where the 4096 bytes stand */
  content(block: number, page: number, fileOffset: number): void;
  zero(block: number, page: number): void;
}

export interface ScanOptions {
  readonly fd: number;
  /** Length of the file. */
  readonly fileBytes: number;
  /** Where in the file the stream begins. */
  readonly offset: number;
  /** Makes the receiver of the pages of a plain stream, once its blocks are known. */
  readonly makePages: (blocks: readonly AnnouncedRamBlock[]) => ScannedPages;
  /** Called now and then with how far in the file the scan is. */
  readonly onProgress?: ((readBytes: number) => void) | undefined;
}

export interface FileScan {
  readonly configuration: StreamConfiguration;
  readonly isMappedRam: boolean;
  readonly ramSectionId: number;
  /** Those of a mapped-ram file all have `mapped`, within the file. */
  readonly blocks: readonly AnnouncedRamBlock[];
  /** Where in the file the device sections begin. */
  readonly tailOffset: number;
  readonly tail: DeviceTail;
}

/** RAM of the largest machines there are; a bitmap of it takes 512 MiB. */
export const MAX_RAM_BYTES = 16 * 2 ** 40;

const BUFFER_BYTES = 1024 * 1024;
/** So much of a mapped-ram file is read where pages may follow that are passed over. */
const HEAD_BYTES = 32 * 1024;

/**
 * @throws {StreamError} whose `at` counts from where the stream begins
 * @throws system errors of read(2)
 */
export function scanFile(options: ScanOptions): FileScan {
  const { fd, fileBytes, offset, onProgress } = options;
  const buffer = new Uint8Array(BUFFER_BYTES);
  const scan = new Scan(options);
  const decoder = new OpenStreamDecoder({
    buffer,
    handler: handlerOf(scan, buffer),
    limits: { ramBytes: MAX_RAM_BYTES },
    accept: 'migration',
    fileOffset: offset,
  });
  for (let at = offset; at < fileBytes; ) {
    const free = decoder.free();
    const wantedBytes = scan.mayPassOver ? HEAD_BYTES : free.length;
    const count = readSync(fd, free, 0, Math.min(wantedBytes, free.length, fileBytes - at), at);
    if (count === 0) break;
    at += count;
    decoder.commit(count);
    decoder.run();
    const passBytes = decoder.skippableBytes;
    if (passBytes > fileBytes - at) {
      const what = `The pages of a RAM block end at byte ${at + passBytes} of the file, which has only ${fileBytes} bytes`;
      throw new StreamError('TRUNCATED', what, at - offset);
    }
    if (passBytes > 0) {
      decoder.skip(passBytes);
      at += passBytes;
      decoder.run();
    }
    onProgress?.(at);
  }
  decoder.end();
  return scan.finish(decoder.ramSectionId as number);
}

/** What has been read so far. */
class Scan {
  configuration: StreamConfiguration | undefined;
  blocks: readonly AnnouncedRamBlock[] | undefined;
  pages: ScannedPages | undefined;
  tail: DeviceTailCollector | undefined;
  tailOffset = 0;
  readonly options: ScanOptions;

  constructor(options: ScanOptions) {
    this.options = options;
  }

  get isMappedRam(): boolean {
    return this.configuration?.capabilities.includes(MAPPED_RAM_CAPABILITY) ?? false;
  }

  /** Whether pages may come that are not read. */
  get mayPassOver(): boolean {
    return this.configuration === undefined || (this.isMappedRam && this.blocks === undefined);
  }

  finish(ramSectionId: number): FileScan {
    const { configuration, isMappedRam, blocks, tailOffset } = this;
    if (configuration === undefined || blocks === undefined || this.tail === undefined) {
      throw new StreamError('TRUNCATED', 'The stream ended before the END of RAM', 0);
    }
    return { configuration, isMappedRam, ramSectionId, blocks, tailOffset, tail: this.tail.settle() };
  }
}

function handlerOf(
  scan: Scan,
  buffer: Uint8Array,
): ConstructorParameters<typeof OpenStreamDecoder>[0]['handler'] {
  const { offset, makePages } = scan.options;
  const noRecords = (at: number): never => {
    throw new StreamError(
      'BAD_FLAGS',
      'A page is among the records of a mapped-ram file, where it has a place',
      at,
    );
  };
  return {
    configuration(configuration, at) {
      if (configuration.capabilities.includes(IGNORE_SHARED_CAPABILITY)) {
        const what = `RAM that is shared is not in the file: switch the capability "${IGNORE_SHARED_CAPABILITY}" off at the source`;
        throw new StreamError('UNSUPPORTED', what, at);
      }
      scan.configuration = configuration;
    },
    recovery: () => {},
    sectionStart: () => {},
    sectionEnd(type, _sectionId, at) {
      if (type !== 'end') return;
      scan.tail = new DeviceTailCollector(at);
      scan.tailOffset = offset + at;
    },
    ramBlocks(blocks) {
      scan.blocks = blocks;
      if (!scan.isMappedRam) scan.pages = makePages(blocks);
    },
    page(block, pageOffset, _position, at) {
      if (scan.pages === undefined) return noRecords(at);
      scan.pages.content(block, pageOffset / TARGET_PAGE_BYTES, offset + at);
    },
    zeroPage(block, pageOffset, at) {
      if (scan.pages === undefined) return noRecords(at);
      scan.pages.zero(block, pageOffset / TARGET_PAGE_BYTES);
    },
    xbzrlePage(_block, _pageOffset, _position, _lengthBytes, at) {
      const what =
        'Pages are kept as differences to older ones (XBZRLE), which cannot be found one by one: switch the capability "xbzrle" off at the source';
      throw new StreamError('UNSUPPORTED', what, at);
    },
    multifdFlush(at) {
      const what =
        'Pages went by other channels, and are not in the file: switch the capability "multifd" off at the source, or "mapped-ram" on';
      throw new StreamError('UNSUPPORTED', what, at);
    },
    ramSectionEnd: () => {},
    command: refuseCommand,
    packageBytes: () => {},
    packageEnd: () => {},
    tailBytes(position, lengthBytes) {
      scan.tail?.push(buffer.subarray(position, position + lengthBytes));
    },
    eof: () => {},
  };
}

/** POSTCOPY_ADVISE alone does no harm: a source may say it and then need no postcopy. */
function refuseCommand({ type }: DecodedCommand, at: number): void {
  switch (type) {
    case 'postcopy-ram-discard':
    case 'packaged-header':
    case 'postcopy-listen':
    case 'postcopy-run':
    case 'postcopy-resume':
    case 'recv-bitmap': {
      const what = 'The migration went on as postcopy, and RAM was never whole in it';
      throw new StreamError('UNSUPPORTED', what, at);
    }
    case 'enable-colo':
      throw new StreamError('UNSUPPORTED', 'The migration is one of COLO, which does not end', at);
    default:
  }
}
