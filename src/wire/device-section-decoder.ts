/**
 * Decodes the bodies of device sections (see device-sections.ts), each device at most once.
 *
 * The state is collected in memory of its own, which grows as the bytes arrive.
 */
import { CollectedBytes } from './collected-bytes.ts';
import { GLOBAL_STATE_BYTES } from './device-sections.ts';
import type { InputBuffer } from './input-buffer.ts';
import { type SectionHeader, unknownSection } from './section-header.ts';

/** A device whose FULL section may come. */
export interface ExpectedDevice {
  readonly idstr: string;
  readonly instanceId: number;
  /** The highest version that can be loaded. */
  readonly versionId: number;
  /** How its body ends. */
  readonly body: 'global-state' | 'length-prefixed';
  /** Limit of a length-prefixed state in bytes. */
  readonly maxBytes: number;
}

export class DeviceSectionDecoder {
  readonly #input: InputBuffer;
  readonly #expected: readonly ExpectedDevice[];
  readonly #begun = new Set<ExpectedDevice>();
  #device: ExpectedDevice | null = null;
  /** Null until the length is known. */
  #collected: CollectedBytes | null = null;

  constructor(input: InputBuffer, expected: readonly ExpectedDevice[]) {
    this.#input = input;
    this.#expected = expected;
  }

  /** @throws {StreamError} if no device here has this section; the input must still be at it */
  begin(header: SectionHeader): void {
    const { idstr, instanceId, versionId } = header;
    const { position } = this.#input;
    const device = this.#expected.find((each) => each.idstr === idstr && each.instanceId === instanceId);
    if (device === undefined) throw unknownSection(this.#input, header);
    if (versionId > device.versionId) {
      const what = `Version of '${idstr}' must be at most ${device.versionId}, got ${versionId}`;
      throw this.#input.error('BAD_VERSION', what, position);
    }
    if (this.#begun.has(device)) {
      throw this.#input.error('BAD_SECTION', `Device '${idstr}' comes twice`, position);
    }
    this.#begun.add(device);
    this.#device = device;
    this.#collected = device.body === 'global-state' ? new CollectedBytes(GLOBAL_STATE_BYTES) : null;
  }

  /** Takes what is there of the body. Returns whether that was all of it. */
  step(): boolean {
    const input = this.#input;
    this.#collected ??= this.#decodeLength();
    if (this.#collected === null) return false;
    input.position += this.#collected.take(input.bytes, input.position, input.end);
    return this.#collected.isComplete;
  }

  /** The device whose body is complete, or null if the section was not of a device; forgets it. */
  take(): { device: ExpectedDevice; state: Uint8Array } | null {
    if (this.#device === null || this.#collected === null) return null;
    const taken = { device: this.#device, state: this.#collected.bytes };
    this.#device = null;
    this.#collected = null;
    return taken;
  }

  #decodeLength(): CollectedBytes | null {
    const input = this.#input;
    if (input.available < 4) return null;
    const lengthBytes = input.view.getUint32(input.position);
    const { idstr, maxBytes } = this.#device!;
    if (lengthBytes > maxBytes) {
      const what = `State of '${idstr}' must take at most ${maxBytes} bytes, got ${lengthBytes}`;
      throw input.error('LIMIT', what, input.position);
    }
    input.position += 4;
    return new CollectedBytes(lengthBytes);
  }
}
