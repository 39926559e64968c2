/**
 * Decodes what a stream begins with: magic, version and CONFIGURATION with its subsections (see sections.ts).
 *
 * The subsections are not counted: they end at the first byte that is not SUBSECTION.
 *
 * For a machine of ours (`machineType` given) nothing else is accepted; else everything is, and can be read off afterwards.
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
  VALIDATED_CAPABILITIES,
} from './sections.ts';

/** Magic, version, and the byte that opens CONFIGURATION: the same in every stream. */
const PREAMBLE = Uint8Array.of(0x51, 0x45, 0x56, 0x4d, 0, 0, 0, FILE_VERSION, SectionType.CONFIGURATION);
/** What a connection that is protected by TLS begins with: its handshake. */
const TLS_BYTE = 0x16;
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
  /** What the source is, once it was read. */
  machineType = '';
  /** Capabilities that both sides must have equal, in the order of the stream; `isDone` says that all were read. */
  readonly capabilities: string[] = [];
  /** 16 bytes, in memory of their own; undefined if the stream has none. */
  uuid: Uint8Array | undefined;
  readonly #input: InputBuffer;
  readonly #requiredMachineType: string | undefined;
  readonly #maxMachineTypeBytes: number;
  readonly #onMachineType: (machineType: string) => void;
  #state: 'preamble' | 'machine-type' | 'subsections' | 'done' = 'preamble';
  /** Index into SUBSECTIONS of the first that may still come. */
  #nextSubsection = 0;
  /** Capabilities of the subsection that are still to be read. */
  #missingCapabilities = 0;

  /**
   * @param machineType the only one that is accepted, without any capability; undefined to accept every machine
   * @param onMachineType called once the name has been read and accepted
   */
  constructor(
    input: InputBuffer,
    machineType: string | undefined,
    maxMachineTypeBytes: number,
    onMachineType: (machineType: string) => void,
  ) {
    this.#input = input;
    this.#requiredMachineType = machineType;
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
        return this.#missingCapabilities > 0 ? this.#stepCapability() : this.#stepSubsection();
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
        const hint = got === TLS_BYTE ? ' (what began is TLS: set tls-creds at this end too)' : '';
        throw input.error('BAD_MAGIC', `Not a migration stream: ${gotAndRequired}${hint}`, position);
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
    if (this.#requiredMachineType !== undefined && machineType !== this.#requiredMachineType) {
      throw input.error(
        'BAD_MACHINE_TYPE',
        `Machine type received is '${machineType}' and local is '${this.#requiredMachineType}'`,
        start,
      );
    }
    if (machineType.length !== lengthBytes) {
      throw input.error(
        'BAD_VALUE',
        `Machine type received must be printable ASCII, got '${machineType}'`,
        start,
      );
    }
    this.machineType = machineType;
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
    if (name === CAPABILITIES_SUBSECTION) this.#beginCapabilities(fields);
    if (name === TARGET_PAGE_BITS_SUBSECTION) this.#checkTargetPageBits(fields);
    if (name === UUID_SUBSECTION) this.uuid = Uint8Array.from(input.bytes.subarray(fields, fieldsEnd));
    input.position = fieldsEnd;
    this.#nextSubsection = index + 1;
    return true;
  }

  #beginCapabilities(position: number): void {
    const input = this.#input;
    this.#missingCapabilities = input.view.getUint32(position);
    if (
      this.#requiredMachineType === undefined &&
      this.#missingCapabilities > VALIDATED_CAPABILITIES.length
    ) {
      const what = `Number of capabilities must be at most ${VALIDATED_CAPABILITIES.length}, got ${this.#missingCapabilities}`;
      throw input.error('LIMIT', what, position);
    }
  }

  /** One name of the list of capabilities that both sides must have equal. A machine of ours has none of them. */
  #stepCapability(): boolean {
    const input = this.#input;
    if (input.available === 0) return false;
    const nameStart = input.position + 1;
    const nameEnd = nameStart + input.bytes[nameStart - 1]!;
    if (input.end < nameEnd) return false;
    const name = asciiText(input.bytes, nameStart, nameEnd);
    if (this.#requiredMachineType !== undefined) {
      throw input.error('UNSUPPORTED', `Capability '${name}' is on at the source, but not here`, nameStart);
    }
    if (!VALIDATED_CAPABILITIES.includes(name)) {
      const what = `Capability '${name}' is on at the source, and what it does to the stream is not known`;
      throw input.error('UNSUPPORTED', what, nameStart);
    }
    if (this.capabilities.includes(name)) {
      throw input.error('BAD_VALUE', `Capability '${name}' is named twice`, nameStart);
    }
    this.capabilities.push(name);
    this.#missingCapabilities--;
    input.position = nameEnd;
    return true;
  }

  #checkTargetPageBits(position: number): void {
    const bits = this.#input.view.getUint32(position);
    if (bits === TARGET_PAGE_BITS) return;
    const what = `Target page size must be 2^${TARGET_PAGE_BITS} bytes, got 2^${bits}`;
    throw this.#input.error('UNSUPPORTED', what, position);
  }
}
