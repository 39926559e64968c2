/**
 * Decodes what a stream begins with: magic, version and CONFIGURATION with its subsections (see sections.ts).
 *
 * The subsections are not counted: they end at the first byte that is not SUBSECTION.
 */
import { asciiText, hex } from './ascii-text.ts';
import type { InputBuffer } from './input-buffer.ts';
import { TARGET_PAGE_BYTES } from './ram-record.ts';
import {
  CAPABILITIES_SUBSECTION,
  FILE_VERSION,
  SectionType,
  TARGET_PAGE_BITS_SUBSECTION,
  UUID_SUBSECTION,
} from './sections.ts';

/** Magic, version, and the byte that opens CONFIGURATION: the same in every stream. */
const PREAMBLE = Uint8Array.of(0x51, 0x45, 0x56, 0x4d, 0, 0, 0, FILE_VERSION, SectionType.CONFIGURATION);
const MAGIC_BYTES = 4;
const MAGIC_AND_VERSION_BYTES = 8;

/** Subsections we know, with the length in bytes of what must have arrived to judge them, in the order they come in. */
const SUBSECTIONS: readonly { readonly name: string; readonly fieldsBytes: number }[] = [
  { name: TARGET_PAGE_BITS_SUBSECTION, fieldsBytes: 4 },
  { name: CAPABILITIES_SUBSECTION, fieldsBytes: 4 },
  { name: UUID_SUBSECTION, fieldsBytes: 16 },
];
const SUBSECTION_VERSION_ID = 1;
const TARGET_PAGE_BITS = Math.log2(TARGET_PAGE_BYTES);

export class ConfigurationDecoder {
  readonly #input: InputBuffer;
  readonly #machineType: string;
  readonly #maxMachineTypeBytes: number;
  readonly #onMachineType: (machineType: string) => void;
  #state: 'preamble' | 'machine-type' | 'subsections' | 'done' = 'preamble';
  /** Index into SUBSECTIONS of the first that may still come. */
  #nextSubsection = 0;

  /** @param onMachineType called once the name has been read and found equal to `machineType` */
  constructor(
    input: InputBuffer,
    machineType: string,
    maxMachineTypeBytes: number,
    onMachineType: (machineType: string) => void,
  ) {
    this.#input = input;
    this.#machineType = machineType;
    this.#maxMachineTypeBytes = maxMachineTypeBytes;
    this.#onMachineType = onMachineType;
  }

  get isDone(): boolean {
    return this.#state === 'done';
  }

  /**
   * @returns false if more bytes are needed
   * @throws {StreamError}
   */
  step(): boolean {
    switch (this.#state) {
      case 'preamble':
        return this.#stepPreamble();
      case 'machine-type':
        return this.#stepMachineType();
      default:
        return this.#stepSubsection();
    }
  }

  #stepPreamble(): boolean {
    const input = this.#input;
    const haveBytes = Math.min(input.available, PREAMBLE.length);
    for (let index = 0; index < haveBytes; index++) {
      const position = input.position + index;
      const got = input.bytes[position]!;
      const required = PREAMBLE[index]!;
      if (got === required) continue;
      const gotAndRequired = `byte must be ${hex(required)}, got ${hex(got)}`;
      if (index < MAGIC_BYTES) {
        throw input.error('BAD_MAGIC', `Not a migration stream: ${gotAndRequired}`, position);
      }
      if (index < MAGIC_AND_VERSION_BYTES) {
        const what = `Cannot read this version of the migration stream, only ${FILE_VERSION}: ${gotAndRequired}`;
        throw input.error('BAD_VERSION', what, position);
      }
      throw input.error('BAD_SECTION', `Configuration section missing: ${gotAndRequired}`, position);
    }
    if (haveBytes < PREAMBLE.length) return false;
    input.position += PREAMBLE.length;
    this.#state = 'machine-type';
    return true;
  }

  #stepMachineType(): boolean {
    const input = this.#input;
    if (input.available < 4) return false;
    const lengthBytes = input.view.getUint32(input.position);
    if (lengthBytes === 0) throw input.error('BAD_LENGTH', 'Machine type received is empty', input.position);
    if (lengthBytes > this.#maxMachineTypeBytes) {
      throw input.error(
        'LIMIT',
        `Length of the machine type must be at most ${this.#maxMachineTypeBytes}, got ${lengthBytes}`,
        input.position,
      );
    }
    if (input.available < 4 + lengthBytes) return false;
    const start = input.position + 4;
    const machineType = asciiText(input.bytes, start, start + lengthBytes);
    if (machineType !== this.#machineType) {
      throw input.error(
        'BAD_MACHINE_TYPE',
        `Machine type received is '${machineType}' and local is '${this.#machineType}'`,
        start,
      );
    }
    input.position = start + lengthBytes;
    this.#state = 'subsections';
    this.#onMachineType(machineType);
    return true;
  }

  #stepSubsection(): boolean {
    const input = this.#input;
    const start = input.position;
    if (input.available === 0) return false;
    if (input.bytes[start] !== SectionType.SUBSECTION) {
      this.#state = 'done';
      return true;
    }
    if (input.available < 2) return false;
    const nameEnd = start + 2 + input.bytes[start + 1]!;
    if (input.end < nameEnd) return false;
    const name = asciiText(input.bytes, start + 2, nameEnd);
    const index = SUBSECTIONS.findIndex((subsection) => subsection.name === name);
    if (index < this.#nextSubsection) {
      const what = index < 0 ? 'Unknown' : 'Repeated or misplaced';
      throw input.error('BAD_SECTION', `${what} subsection of the configuration: '${name}'`, start);
    }
    const fields = nameEnd + 4;
    const fieldsEnd = fields + SUBSECTIONS[index]!.fieldsBytes;
    if (input.end < fieldsEnd) return false;
    const versionId = input.view.getUint32(nameEnd);
    if (versionId !== SUBSECTION_VERSION_ID) {
      const what = `Version of '${name}' must be ${SUBSECTION_VERSION_ID}, got ${versionId}`;
      throw input.error('BAD_VERSION', what, nameEnd);
    }
    if (name === CAPABILITIES_SUBSECTION && !this.#acceptCapabilities(fields)) return false;
    if (name === TARGET_PAGE_BITS_SUBSECTION) this.#checkTargetPageBits(fields);
    input.position = fieldsEnd;
    this.#nextSubsection = index + 1;
    return true;
  }

  /**
   * The capabilities named here are those that both sides must have equal, and this side has none of them.
   *
   * @returns true for an empty list, false if the name of the first is not there yet
   */
  #acceptCapabilities(position: number): boolean {
    const input = this.#input;
    if (input.view.getUint32(position) === 0) return true;
    const nameStart = position + 5;
    if (input.end < nameStart) return false;
    const nameEnd = nameStart + input.bytes[nameStart - 1]!;
    if (input.end < nameEnd) return false;
    const name = asciiText(input.bytes, nameStart, nameEnd);
    throw input.error('UNSUPPORTED', `Capability '${name}' is on at the source, but not here`, nameStart);
  }

  #checkTargetPageBits(position: number): void {
    const bits = this.#input.view.getUint32(position);
    if (bits === TARGET_PAGE_BITS) return;
    const what = `Target page size must be 2^${TARGET_PAGE_BITS} bytes, got 2^${bits}`;
    throw this.#input.error('UNSUPPORTED', what, position);
  }
}
