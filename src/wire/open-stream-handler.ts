/**
 * What someone is told who reads the stream of a machine he does not know.
 *
 * Calls come in the order of the stream, each after the bytes that it is about were checked. `at` counts stream bytes;
 * `position` is an index into the decoder's buffer and valid until its `free()` is called next.
 */
import type { AnnouncedRamBlock } from './announced-blocks-decoder.ts';
import type { DecodedCommand } from './commands.ts';
import type { BodySectionType } from './sections.ts';

/** What CONFIGURATION says. */
export interface StreamConfiguration {
  readonly machineType: string;
  /** 16 bytes, if the source was told to send it (`validate-uuid`). */
  readonly uuid: Uint8Array | undefined;
  /** Those that both sides must have equal: none, `x-ignore-shared`, `mapped-ram`. */
  readonly capabilities: readonly string[];
}

export interface OpenStreamHandler {
  /** @param at where the file header begins: 0 */
  configuration(configuration: StreamConfiguration, at: number): void;
  /**
   * The stream continues a postcopy that was interrupted. It has no configuration and announces no blocks.
   *
   * @param at 0
   */
  recovery(at: number): void;
  /** A RAM section began; no other is delimited in the stream. */
  sectionStart(type: Exclude<BodySectionType, 'full'>, sectionId: number, at: number): void;
  /** Its footer was right. @param at one past the footer */
  sectionEnd(type: Exclude<BodySectionType, 'full'>, sectionId: number, at: number): void;
  /** The RAM blocks, in the order of MEM_SIZE. @param at where MEM_SIZE begins */
  ramBlocks(blocks: readonly AnnouncedRamBlock[], at: number): void;
  /**
   * Content of a page: 4096 bytes.
   *
   * @param blockIndex index into the blocks
   * @param offset byte offset in the block, a multiple of 4096 below its length
   * @param at of the content
   */
  page(blockIndex: number, offset: number, position: number, at: number): void;
  /** The page is zero. @param at where the record begins */
  zeroPage(blockIndex: number, offset: number, at: number): void;
  /** The page changed by a delta: see `applyXbzrle()`. @param at of the delta */
  xbzrlePage(blockIndex: number, offset: number, position: number, lengthBytes: number, at: number): void;
  /** What was sent on the channels of multifd must be there before anything that follows. */
  multifdFlush(at: number): void;
  /** The records of this RAM section are complete (EOS). Its footer may be late: a source need not flush it. */
  ramSectionEnd(at: number): void;
  /** The source gave a command. After `packaged-header` the package comes, piece by piece. */
  command(command: DecodedCommand, at: number): void;
  /** A piece of the package: the device state of a postcopy (see package.ts). */
  packageBytes(position: number, lengthBytes: number, at: number): void;
  /** The package is complete. @param at one past it */
  packageEnd(at: number, holdsRun: boolean): void;
  /**
   * A piece of what follows RAM in a precopy: device state, EOF and description, which only who knows the devices can
   * tell apart, or who has it all (see device-tail.ts).
   */
  tailBytes(position: number, lengthBytes: number, at: number): void;
  /** EOF of a postcopy: the last byte. In a precopy it is in the tail. */
  eof(at: number): void;
}
