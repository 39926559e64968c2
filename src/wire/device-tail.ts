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
/** QEMU's streams have one; more than this many are somebody's attempt to keep us busy. */
const MAX_CANDIDATES = 64;

const FIRST_CAPACITY_BYTES = 64 * 1024;
const RECORD_HEADER_BYTES = 1 + 1 + 4;
/** Older QEMUs begin it with "page_size", newer ones with "configuration". */
const DESCRIPTION_BEGINS = Buffer.from('{"');

interface Candidate {
  /** Positions in the tail: of EOF, and one past the JSON. */
  readonly eof: number;
  readonly end: number;
  /** What the tail is if it ends here: null before that is known, undefined if there is no description here. */
  tail: DeviceTail | null | undefined;
}

export class DeviceTailCollector {
  readonly #at: number;
  readonly #maxBytes: number;
  #memory = Buffer.alloc(FIRST_CAPACITY_BYTES);
  #countBytes = 0;
  /** Where the search for the next description goes on. */
  #searched = RECORD_HEADER_BYTES;
  readonly #candidates: Candidate[] = [];
  /** Candidates whose last byte has not come. */
  #pending: Candidate[] = [];

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

    const complete = this.#pending.filter(({ end }) => end <= this.#countBytes);
    if (complete.length === 0) return null;
    this.#pending = this.#pending.filter(({ end }) => end > this.#countBytes);
    for (const candidate of complete) candidate.tail = this.#take(candidate);
    const last = complete.find(({ end, tail }) => end === this.#countBytes && tail?.devices !== undefined);
    return last?.tail ?? null;
  }

  /**
   * Nothing more comes: the peer closed, or has been silent for so long that the caller takes that for the end.
   *
   * @throws {StreamError} `TRUNCATED` if the tail cannot end here, `BAD_LENGTH` if bytes follow its end
   */
  settle(): DeviceTail {
    const count = this.#countBytes;
    const described = this.#candidates.filter(({ tail }) => tail !== null && tail !== undefined);
    const fitting = described.find(({ tail }) => tail?.devices !== undefined);
    const chosen = described.find(({ end }) => end === count) ?? fitting;
    if (chosen?.tail != null) {
      if (chosen.end === count) return chosen.tail;
      const what = `${count - chosen.end} bytes follow the end of the stream`;
      throw new StreamError('BAD_LENGTH', what, this.#at + chosen.end);
    }
    const cut = this.#pending[0];
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
      const start = seen.indexOf(DESCRIPTION_BEGINS, this.#searched);
      if (start < 0) break;
      this.#searched = start + 1;
      const eof = start - RECORD_HEADER_BYTES;
      if (seen[eof] !== SectionType.EOF || seen[eof + 1] !== SectionType.VMDESCRIPTION) continue;
      const lengthBytes = seen.readUInt32BE(start - 4);
      if (lengthBytes > STREAM_LIMITS.vmDescriptionBytes) continue;
      const candidate: Candidate = { eof, end: start + lengthBytes, tail: null };
      this.#candidates.push(candidate);
      this.#pending.push(candidate);
      if (this.#candidates.length > MAX_CANDIDATES) {
        const what = `Device state must contain what looks like a VM description at most ${MAX_CANDIDATES} times`;
        throw new StreamError('LIMIT', what, this.#at + eof);
      }
    }
    // The beginning of a description may have come in part.
    this.#searched = Math.max(this.#searched, this.#countBytes - DESCRIPTION_BEGINS.length + 1);
  }

  /** The tail that ends with this candidate, or undefined if that is no description. */
  #take({ eof, end }: Candidate): DeviceTail | undefined {
    const deviceSections = this.#memory.subarray(0, eof);
    const vmDescription = this.#memory.subarray(eof + RECORD_HEADER_BYTES, end);
    try {
      const described = decodeVmDescription(vmDescription);
      const devices = this.#walk(deviceSections, described);
      return { deviceSections, eofAt: this.#at + eof, vmDescription, devices };
    } catch (error) {
      if (error instanceof StreamError) return undefined;
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
