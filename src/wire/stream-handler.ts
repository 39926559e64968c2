/**
 * What a destination is told while its stream is decoded.
 *
 * Calls come in the order of the stream, each after the bytes that it is about were checked. A handler may call
 * `StreamDecoder.pause()`: nothing more is decoded then until `resume()` and `run()`.
 */
import type { Command } from './commands.ts';
import type { WireRamBlock } from './ram-record.ts';
import type { BodySectionType } from './sections.ts';

export interface StreamHandler {
  /** The source is a machine of this type; it is ours. */
  configuration(machineType: string): void;
  /** A section began. */
  sectionStart(type: BodySectionType, sectionId: number, idstr: string): void;
  /** A section ended and its footer was right. */
  sectionEnd(type: BodySectionType, sectionId: number, idstr: string): void;
  /** The source announced its RAM blocks, in its order; they are ours. */
  ramBlocks(blocks: readonly WireRamBlock[]): void;
  /**
   * Content of a page: 4096 bytes from `position` on in the decoder's buffer, until `free()` is called next.
   *
   * @param blockIndex index into the blocks the decoder was made with
   * @param offset byte offset in the block, a multiple of 4096 below its length
   */
  page(blockIndex: number, offset: number, position: number): void;
  /** The page is zero. */
  zeroPage(blockIndex: number, offset: number): void;
  /** The records of this RAM section are complete (EOS). Its footer may be late: a source need not flush it. */
  ramSectionEnd(): void;
  /**
   * State of a device, in memory of its own: for `global-state` the body (see `decodeGlobalState()`), for
   * `length-prefixed` what follows the length. Comes before the `sectionEnd()` of the section.
   */
  device(idstr: string, state: Uint8Array, instanceId: number): void;
  /** The source gave a command. */
  command(command: Command): void;
  /**
   * The last byte that matters. A VM description may follow in precopy, but a source that waits for our SHUT may also
   * leave it out: do not wait for it.
   */
  eof(): void;
  /** A VM description of this length in bytes went by; no destination needs it. */
  vmDescription(lengthBytes: number): void;
}
