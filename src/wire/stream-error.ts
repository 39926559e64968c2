/**
 * The peer sent bytes that cannot be accepted.
 *
 * The code is the contract; the text may change. Every text names what was wrong, what came, and what was required.
 */

/**
 *   BAD_MAGIC         the stream does not begin as a migration stream does
 *   BAD_VERSION       a version of the stream, a section or a message that cannot be read
 *   BAD_MACHINE_TYPE  the source is another kind of machine
 *   BAD_SECTION       a section that is unknown, or has no place here
 *   BAD_FOOTER        a section does not end where it should
 *   BAD_FLAGS         a RAM record with flags that do not go together
 *   BAD_COMMAND       a command that is unknown, or has no place here
 *   BAD_LENGTH        a length that contradicts what it measures
 *   BAD_VALUE         a field whose value is not one of those allowed
 *   BAD_CHECKSUM      a page that is not what was sent, or not where
 *   BAD_MESSAGE       a return-path message that is unknown or malformed
 *   UNKNOWN_BLOCK     a RAM block that does not exist here
 *   OUT_OF_RANGE      an address outside its block, or unaligned
 *   TRUNCATED         the stream ended too early
 *   LIMIT             a length above a named limit
 *   UNSUPPORTED       valid, but of a feature this side has not
 */
export type StreamErrorCode =
  | 'BAD_MAGIC'
  | 'BAD_VERSION'
  | 'BAD_MACHINE_TYPE'
  | 'BAD_SECTION'
  | 'BAD_FOOTER'
  | 'BAD_FLAGS'
  | 'BAD_COMMAND'
  | 'BAD_LENGTH'
  | 'BAD_VALUE'
  | 'BAD_CHECKSUM'
  | 'BAD_MESSAGE'
  | 'UNKNOWN_BLOCK'
  | 'OUT_OF_RANGE'
  | 'TRUNCATED'
  | 'LIMIT'
  | 'UNSUPPORTED';

/** Which byte sequence `at` counts in: a package and the return path are streams of their own. */
export type StreamName = 'stream' | 'package' | 'return path';

export class StreamError extends RangeError {
  override readonly name = 'StreamError';
  readonly code: StreamErrorCode;
  /** Where the refused bytes begin, counted from the first byte of the stream. */
  readonly at: number;

  constructor(code: StreamErrorCode, what: string, at: number, streamName: StreamName = 'stream') {
    super(`${what} (${streamName} byte ${at})`);
    this.code = code;
    this.at = at;
  }
}
