/**
 * Collects what follows RAM in a precopy, and finds its end.
 *
 *   FULL section for each device    not delimited
 *   00                              EOF
 *   06, be32 n, n bytes of JSON     the description of the sections, unless the machine suppresses it
 *
 * A source that waits for our SHUT does not close, so the end must be seen in the bytes: `00 06 n`, then n bytes that begin
 * as a description does and are one, and nothing behind. The state of a device may contain such bytes too, put there by its
 * guest, so the description must also fit the sections before it. One that does not is taken only when nothing more comes.
 *
 * Bytes may trickle in: each is looked at once, and a candidate for a description when its last byte has come.
 */
import { type DeviceSection, decodeVmDescription, walkDeviceSections } from './device-walk.ts';
import { SECTION_FOOTER_BYTES, SectionType } from './sections.ts';
import { StreamError } from './stream-error.ts';
import { STREAM_LIMITS } from './stream-limits.ts';

/** The device state of a precopy, taken apart. */
export interface DeviceTail {
  /** The FULL sections as they came, without EOF; shares memory with the collector. */
  readonly deviceSections: Uint8Array;
  /** Stream byte of EOF. */
  readonly eofAt: number;
  /** The JSON, as it came; undefined if there is none. */
  readonly vmDescription: Uint8Array | undefined;
  /** The sections one by one; undefined if there is no description or it does not fit. */
  readonly devices: readonly DeviceSection[] | undefined;
}

/** All device state of a machine, with graphics memory that some devices keep there. */
export const MAX_TAIL_BYTES = 512 * 1024 * 1024;
/**
 * How many places where a description may begin are kept: QEMU's streams have one. More than that a guest has put into its
 * devices, and they come before the description, whose own bytes cannot look like the beginning of another.
 */
const MAX_CANDIDATES = 64;

const FIRST_CAPACITY_BYTES = 64 * 1024;
const RECORD_HEADER_BYTES = 1 + 1 + 4;
const EOF_AND_DESCRIPTION = Buffer.of(SectionType.EOF, SectionType.VMDESCRIPTION);
/** Whatever its first property: QEMU 7.2 begins with `page_size`, QEMU 10 with `configuration`. */
const JSON_BEGINS = '{"';

interface Candidate {
  /** Positions in the tail: of EOF, and one past the JSON. */
  readonly eof: number;
  readonly end: number;
  /** What the tail is if it ends here: null before that is known, or what is wrong with the description. */
  tail: DeviceTail | StreamError | null;
}

export class DeviceTailCollector {
  readonly #at: number;
  readonly #maxBytes: number;
  #memory = Buffer.alloc(FIRST_CAPACITY_BYTES);
  #countBytes = 0;
  /** Where the search for the next description goes on. */
  #searched = 0;
  /** The last ones. */
  #candidates: Candidate[] = [];

  /**
   * @param at stream byte of the tail: one past the footer of RAM's END
   * @param options.maxBytes limit of the tail; `MAX_TAIL_BYTES` by default
   */
  constructor(at: number, { maxBytes = MAX_TAIL_BYTES }: { readonly maxBytes?: number } = {}) {
    this.#at = at;
    this.#maxBytes = maxBytes;
  }

  /** Bytes collected so far. */
  get countBytes(): number {
    return this.#countBytes;
  }

  /**
   * Takes what came next.
   *
   * @returns the tail, once it is seen to be complete; a source may also leave the description out, see `settle()`
   * @throws {StreamError} `LIMIT`
   */
  push(bytes: Uint8Array): DeviceTail | null {
    this.#reserve(this.#countBytes + bytes.length);
    this.#memory.set(bytes, this.#countBytes);
    this.#countBytes += bytes.length;
    this.#search();

    const complete = this.#candidates.filter(({ end, tail }) => tail === null && end <= this.#countBytes);
    for (const candidate of complete) candidate.tail = this.#take(candidate);
    for (const { end, tail } of complete) {
      if (end === this.#countBytes && isTail(tail) && tail.devices !== undefined) return tail;
    }
    return null;
  }

  /**
   * Nothing more comes: the peer closed, or has been silent for so long that the caller takes that for the end.
   *
   * @throws {StreamError} `TRUNCATED` if the tail cannot end here, `BAD_LENGTH` if bytes follow its end
   */
  settle(): DeviceTail {
    const count = this.#countBytes;
    const last = this.#candidates.findLast(({ end }) => end === count);
    if (last?.tail instanceof StreamError) throw last.tail;
    if (last !== undefined && isTail(last.tail)) return last.tail;
    const early = this.#candidates.find(({ tail }) => isTail(tail) && tail.devices !== undefined);
    if (early !== undefined) {
      const what = `${count - early.end} bytes follow the end of the stream`;
      throw new StreamError('BAD_LENGTH', what, this.#at + early.end);
    }
    const cut = this.#candidates.find(({ tail }) => tail === null);
    if (cut !== undefined) {
      const what = `The stream ended in the VM description, ${cut.end - count} bytes before its end`;
      throw new StreamError('TRUNCATED', what, this.#at + count);
    }
    if (!this.#endsWithEof()) {
      throw new StreamError('TRUNCATED', 'The stream ended in device state, before EOF', this.#at + count);
    }
    const deviceSections = this.#memory.subarray(0, count - 1);
    return { deviceSections, eofAt: this.#at + count - 1, vmDescription: undefined, devices: undefined };
  }

  /**
   * Whether the last byte is EOF and not just any zero: it follows a footer, of a section that began before. What was cut
   * within a body hardly ends so.
   */
  #endsWithEof(): boolean {
    const count = this.#countBytes;
    if (count === 0 || this.#memory[count - 1] !== SectionType.EOF) return false;
    const footer = count - 1 - SECTION_FOOTER_BYTES;
    if (footer < 0) return count === 1;
    if (this.#memory[footer] !== SectionType.FOOTER) return false;
    const header = Buffer.from(this.#memory.subarray(footer, count - 1));
    header[0] = SectionType.FULL;
    return this.#memory.subarray(0, footer).lastIndexOf(header) >= 0;
  }

  #search(): void {
    const seen = this.#memory.subarray(0, this.#countBytes);
    for (;;) {
      const eof = seen.indexOf(EOF_AND_DESCRIPTION, this.#searched);
      if (eof < 0) {
        this.#searched = Math.max(this.#searched, this.#countBytes - 1);
        return;
      }
      const start = eof + RECORD_HEADER_BYTES;
      this.#searched = eof;
      if (this.#countBytes < start + JSON_BEGINS.length) return;
      this.#searched = eof + 1;
      const lengthBytes = seen.readUInt32BE(start - 4);
      if (lengthBytes > STREAM_LIMITS.vmDescriptionBytes) continue;
      if (seen.toString('latin1', start, start + JSON_BEGINS.length) !== JSON_BEGINS) continue;
      if (this.#candidates.length === MAX_CANDIDATES) this.#candidates.shift();
      this.#candidates.push({ eof, end: start + lengthBytes, tail: null });
    }
  }

  /** The tail that ends with this candidate, or what is wrong with the description there. */
  #take({ eof, end }: Candidate): DeviceTail | StreamError {
    const deviceSections = this.#memory.subarray(0, eof);
    const vmDescription = this.#memory.subarray(eof + RECORD_HEADER_BYTES, end);
    try {
      const described = decodeVmDescription(vmDescription, this.#at + eof + RECORD_HEADER_BYTES);
      const devices = this.#walk(deviceSections, described);
      return { deviceSections, eofAt: this.#at + eof, vmDescription, devices };
    } catch (error) {
      if (error instanceof StreamError) return error;
      throw error;
    }
  }

  #walk(deviceSections: Uint8Array, described: ReturnType<typeof decodeVmDescription>) {
    try {
      return walkDeviceSections(deviceSections, described, this.#at);
    } catch (error) {
      if (error instanceof StreamError) return undefined;
      throw error;
    }
  }

  #reserve(neededBytes: number): void {
    if (neededBytes > this.#maxBytes) {
      const what = `Device state must take at most ${this.#maxBytes} bytes`;
      throw new StreamError('LIMIT', what, this.#at + this.#maxBytes);
    }
    if (neededBytes <= this.#memory.length) return;
    const grown = Buffer.alloc(Math.min(this.#maxBytes, Math.max(neededBytes, this.#memory.length * 2)));
    this.#memory.copy(grown, 0, 0, this.#countBytes);
    this.#memory = grown;
  }
}

function isTail(tail: DeviceTail | StreamError | null): tail is DeviceTail {
  return tail !== null && !(tail instanceof StreamError);
}
