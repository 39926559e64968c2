/**
 * One session with a server of snapshots: the destination's side of the protocol, for a destination that only fetches.
 *
 *   server ─▶ configuration, blocks, discards, package      who the machine is, and which of its pages are not zero
 *   server ◀─ REQ_PAGES                                     one page if a guest waits, more if not
 *   server ─▶ those pages                                   and no others
 *   server ◀─ SHUT 0                                        that is enough
 *
 * Bytes go in, positions in the buffer and messages for the server come out; whoever drives it owns the connection.
 */
import { createHash } from 'node:crypto';
import { PageBitmap } from '../memory/page-bitmap.ts';
import { type RamBlockLayout, TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import { CollectedBytes } from '../wire/collected-bytes.ts';
import type { DecodedCommand } from '../wire/commands.ts';
import { MAX_TAIL_BYTES } from '../wire/device-tail.ts';
import {
  type AnnouncedRamBlock,
  OpenStreamDecoder,
  type OpenStreamHandler,
  type StreamConfiguration,
} from '../wire/open-stream-decoder.ts';
import { openPackage } from '../wire/package.ts';
import { encodePong, encodeReqPages, encodeReqPagesId, encodeShut } from '../wire/return-path.ts';
import { SectionType } from '../wire/sections.ts';
import { StreamError } from '../wire/stream-error.ts';
import type { PageRun } from './push-order.ts';

/** A server can make a client keep this much of tables for its RAM, and no more: they take 1/2000 of it. */
const MAX_RAM_BYTES = 2 ** 40;
/** As much device state as a snapshot may hold; memory for it is taken as it comes. */
const MAX_PACKAGE_BYTES = MAX_TAIL_BYTES + 1024;

/** What a server serves. */
export interface PulledSnapshot {
  readonly machineType: string;
  readonly uuid: Uint8Array | undefined;
  readonly ramSectionId: number;
  readonly blocks: readonly RamBlockLayout[];
  /** A bitmap per block, in shared memory, of the pages that are not zero. */
  readonly content: readonly PageBitmap[];
  /** FULL sections. */
  readonly deviceSections: Uint8Array;
  /** SHA-256 over all of this, hexadecimal: which snapshot it is. */
  readonly digest: string;
}

export interface PullHandler {
  /** All is known of the snapshot; pages can be asked for from now on. */
  identified(snapshot: PulledSnapshot): void;
  /**
   * A page came.
   *
   * @param position of its content in the buffer, valid until `free()` is called next; -1 if it is zero
   * @returns false if it was not asked for: the session is over then
   */
  page(block: number, page: number, position: number): boolean;
  /** A message for the server. */
  send(message: Uint8Array): void;
}

export class PullSession {
  readonly #handler: PullHandler;
  readonly #decoder: OpenStreamDecoder;
  #buffer: Uint8Array;
  #configuration: StreamConfiguration | undefined;
  #ramSectionId = 0;
  #blocks: readonly AnnouncedRamBlock[] = [];
  #content: readonly PageBitmap[] = [];
  #isReturnPathOpen = false;
  #package = new CollectedBytes(0);
  #isIdentified = false;
  #namedBlock = -1;

  /** @param buffer to receive into, at least `MIN_STREAM_BUFFER_BYTES` */
  constructor(buffer: Uint8Array, handler: PullHandler) {
    this.#handler = handler;
    this.#buffer = buffer;
    this.#decoder = new OpenStreamDecoder({
      buffer,
      handler: this.#streamHandler(),
      accept: 'migration',
      limits: { ramBytes: MAX_RAM_BYTES, packageBytes: MAX_PACKAGE_BYTES },
    });
  }

  get isIdentified(): boolean {
    return this.#isIdentified;
  }

  /** The server says that it has sent everything. */
  get isEnded(): boolean {
    return this.#decoder.ended;
  }

  /** The memory to read into next; positions handed out before are void. */
  free(): Uint8Array {
    return this.#decoder.free();
  }

  /**
   * So many bytes of it were read.
   *
   * @throws {StreamError} if this is no server of snapshots, or breaks the protocol
   */
  received(countBytes: number): void {
    this.#decoder.commit(countBytes);
    this.#decoder.run();
  }

  /** Asks for pages; only after `identified`. */
  request({ block, firstPage, pageCount }: PageRun): void {
    const start = firstPage * TARGET_PAGE_BYTES;
    const lengthBytes = pageCount * TARGET_PAGE_BYTES;
    const { idstr } = this.#blocks[block] as AnnouncedRamBlock;
    const isNamed = block === this.#namedBlock;
    this.#namedBlock = block;
    this.#handler.send(
      isNamed ? encodeReqPages(start, lengthBytes) : encodeReqPagesId(start, lengthBytes, idstr),
    );
  }

  /** Tells the server that this is enough. */
  end(): void {
    this.#handler.send(encodeShut(0));
  }

  #streamHandler(): OpenStreamHandler {
    return {
      configuration: (configuration) => {
        this.#configuration = configuration;
      },
      recovery: () => {},
      sectionStart: (type, sectionId) => {
        if (type === 'start') this.#ramSectionId = sectionId;
      },
      sectionEnd: () => {},
      ramBlocks: (blocks, at) => this.#setBlocks(blocks, at),
      page: (block, offset, position, at) => this.#page(block, offset, position, at),
      zeroPage: (block, offset, at) => this.#page(block, offset, -1, at),
      xbzrlePage: (_block, _offset, _position, _lengthBytes, at) => {
        throw new StreamError('UNSUPPORTED', `This is a migration, not a snapshot that is served`, at);
      },
      multifdFlush: () => {},
      ramSectionEnd: () => {},
      command: (command, at) => this.#command(command, at),
      packageBytes: (position, lengthBytes) => {
        this.#package.take(this.#buffer, position, position + lengthBytes);
      },
      packageEnd: (at) => this.#identify(at),
      tailBytes: (_position, _lengthBytes, at) => {
        throw new StreamError(
          'UNSUPPORTED',
          'This is a precopy migration, not a snapshot that is served',
          at,
        );
      },
      eof: () => {},
    };
  }

  #setBlocks(blocks: readonly AnnouncedRamBlock[], at: number): void {
    for (const { idstr, pageSizeBytes } of blocks) {
      if (pageSizeBytes === TARGET_PAGE_BYTES) continue;
      const what = `Block "${idstr}" has host pages of ${pageSizeBytes} bytes; only ${TARGET_PAGE_BYTES} can be fetched`;
      throw new StreamError('UNSUPPORTED', what, at);
    }
    this.#blocks = blocks;
    this.#content = blocks.map(({ lengthBytes }) => PageBitmap.shared(lengthBytes / TARGET_PAGE_BYTES));
  }

  #page(block: number, offset: number, position: number, at: number): void {
    if (this.#isIdentified && this.#handler.page(block, offset / TARGET_PAGE_BYTES, position)) return;
    const where = `page ${offset / TARGET_PAGE_BYTES} of "${this.#blocks[block]?.idstr}"`;
    throw new StreamError('BAD_VALUE', `The server sends ${where}, which was not asked for`, at);
  }

  #command(command: DecodedCommand, at: number): void {
    switch (command.type) {
      case 'open-return-path':
        this.#isReturnPathOpen = true;
        return;
      case 'ping':
        if (this.#isReturnPathOpen) this.#handler.send(encodePong(command.value));
        return;
      case 'postcopy-ram-discard': {
        const block = this.#blocks.findIndex(({ idstr }) => idstr === command.idstr);
        for (const { start, lengthBytes } of command.ranges) {
          this.#addContent(block, start / TARGET_PAGE_BYTES, lengthBytes / TARGET_PAGE_BYTES, at);
        }
        return;
      }
      case 'packaged-header':
        this.#package = new CollectedBytes(command.lengthBytes);
        return;
      case 'postcopy-advise':
        return;
      default:
        throw new StreamError(
          'BAD_COMMAND',
          `Command "${command.type}" has no place where a snapshot is served`,
          at,
        );
    }
  }

  /** Each page once: a server could keep us busy with the same terabyte for ever. */
  #addContent(block: number, firstPage: number, pageCount: number, at: number): void {
    const content = this.#content[block] as PageBitmap;
    const known = content.nextSet(firstPage, firstPage + pageCount);
    if (known >= 0) {
      const what = `The server names page ${known} of "${this.#blocks[block]?.idstr}" twice`;
      throw new StreamError('BAD_VALUE', what, at);
    }
    content.setRange(firstPage, pageCount);
  }

  #identify(at: number): void {
    const { bytes } = this.#package;
    const deviceSections = openPackage(bytes).deviceSections;
    if (
      this.#configuration === undefined ||
      !this.#isReturnPathOpen ||
      deviceSections[0] !== SectionType.FULL
    ) {
      throw new StreamError('BAD_COMMAND', 'The package comes without a return path, or without devices', at);
    }
    const { machineType, uuid } = this.#configuration;
    const known = {
      uuid: uuid && Uint8Array.from(uuid),
      ...{ machineType, deviceSections, content: this.#content, ramSectionId: this.#ramSectionId },
      blocks: this.#blocks.map(({ idstr, lengthBytes, pageSizeBytes }) => ({
        idstr,
        lengthBytes,
        pageSizeBytes,
      })),
    };
    this.#isIdentified = true;
    this.#handler.identified({ ...known, digest: digestOf(known) });
  }
}

function digestOf({
  machineType,
  uuid,
  ramSectionId,
  blocks,
  content,
  deviceSections,
}: Omit<PulledSnapshot, 'digest'>) {
  const hash = createHash('sha256');
  const head = {
    machineType,
    uuid: uuid === undefined ? null : Buffer.from(uuid).toString('hex'),
    ramSectionId,
    blocks,
  };
  hash.update(`${JSON.stringify(head)}\n`);
  for (const { words } of content) hash.update(Buffer.from(words.buffer, words.byteOffset, words.byteLength));
  return hash.update(deviceSections).digest('hex');
}
