/**
 * Decodes the blocks that MEM_SIZE announces (see ram-record.ts), for a machine that knows its own.
 *
 * There is no count: the list ends when the lengths reach the total.
 */
import { asciiText } from './ascii-text.ts';
import type { InputBuffer } from './input-buffer.ts';
import { TARGET_PAGE_BYTES, type WireRamBlock } from './ram-record.ts';

/** What follows the u64 of MEM_SIZE, one step for each thing in it. */
export interface MemSizeDecoder {
  /** The u64 was read. @param totalBytes sum of the lengths of all blocks */
  begin(totalBytes: number): void;
  /**
   * Decodes one block.
   *
   * @returns the blocks, in the order they were announced, once all of them are there; `true` if there are more to decode,
   *   `false` if more bytes are needed
   * @throws {StreamError}
   */
  step(): readonly WireRamBlock[] | boolean;
}

/**
 * Where the cstr at `position` ends, or 0 if it is not complete yet.
 *
 * @throws {StreamError} `BAD_LENGTH` if it is empty
 */
export function blockNameEnd(input: InputBuffer, position: number): number {
  if (position >= input.end) return 0;
  const lengthBytes = input.bytes[position]!;
  if (lengthBytes === 0) throw input.error('BAD_LENGTH', 'Name of RAM block is empty', position);
  const nameEnd = position + 1 + lengthBytes;
  return nameEnd <= input.end ? nameEnd : 0;
}

/** Accepts exactly the blocks of this machine, in any order. */
export class ExpectedBlocksDecoder implements MemSizeDecoder {
  /** Whether the source sent POSTCOPY_ADVISE, and so the host page size of blocks with large pages. */
  isPostcopyAdvised = false;
  readonly #input: InputBuffer;
  readonly #blocks: readonly WireRamBlock[];
  #announced: WireRamBlock[] = [];
  #totalBytes = 0;
  #unannouncedBytes = 0;

  constructor(input: InputBuffer, blocks: readonly WireRamBlock[]) {
    this.#input = input;
    this.#blocks = blocks;
  }

  begin(totalBytes: number): void {
    this.#announced = [];
    this.#totalBytes = totalBytes;
    this.#unannouncedBytes = totalBytes;
  }

  step(): readonly WireRamBlock[] | boolean {
    if (this.#unannouncedBytes > 0 && !this.#stepBlock()) return false;
    return this.#unannouncedBytes > 0 || this.#complete();
  }

  #stepBlock(): boolean {
    const input = this.#input;
    const start = input.position;
    const nameEnd = blockNameEnd(input, start);
    if (nameEnd === 0) return false;
    const block = this.#findBlock(start + 1, nameEnd);
    if (this.#announced.includes(block)) {
      throw input.error('BAD_VALUE', `RAM block "${block.idstr}" is announced twice`, start);
    }
    if (input.end - nameEnd < 8) return false;
    const lengthBytes = input.view.getBigUint64(nameEnd);
    if (lengthBytes !== BigInt(block.lengthBytes)) {
      throw input.error(
        'BAD_LENGTH',
        `Length of RAM block "${block.idstr}" must be ${block.lengthBytes} bytes as it is here, got ${lengthBytes}`,
        nameEnd,
      );
    }
    if (block.lengthBytes > this.#unannouncedBytes) {
      throw input.error(
        'BAD_LENGTH',
        `Lengths of the RAM blocks exceed their total of ${this.#totalBytes} bytes at "${block.idstr}"`,
        nameEnd,
      );
    }
    let end = nameEnd + 8;
    if (this.isPostcopyAdvised && block.pageSizeBytes !== TARGET_PAGE_BYTES) {
      if (input.end - end < 8) return false;
      const pageSizeBytes = input.view.getBigUint64(end);
      if (pageSizeBytes !== BigInt(block.pageSizeBytes)) {
        throw input.error(
          'BAD_VALUE',
          `Host page size of RAM block "${block.idstr}" must be ${block.pageSizeBytes} bytes as it is here, got ${pageSizeBytes}`,
          end,
        );
      }
      end += 8;
    }
    input.position = end;
    this.#announced.push(block);
    this.#unannouncedBytes -= block.lengthBytes;
    return true;
  }

  #complete(): readonly WireRamBlock[] {
    const announced = this.#announced;
    const missing = this.#blocks.find((block) => !announced.includes(block));
    if (missing === undefined) return announced;
    const localBytes = this.#blocks.reduce((sum, block) => sum + block.lengthBytes, 0);
    throw this.#input.error(
      'BAD_LENGTH',
      `Total RAM must be ${localBytes} bytes as it is here, got ${this.#totalBytes} without "${missing.idstr}"`,
      this.#input.position,
    );
  }

  #findBlock(start: number, end: number): WireRamBlock {
    const idstr = asciiText(this.#input.bytes, start, end);
    const block = this.#blocks.find((each) => each.idstr === idstr);
    if (block !== undefined) return block;
    throw this.#input.error('UNKNOWN_BLOCK', `Unknown ramblock "${idstr}", cannot accept migration`, start);
  }
}
