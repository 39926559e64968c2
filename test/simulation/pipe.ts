/**
 * One direction of a simulated connection: bytes come out in order, later, and cut anywhere.
 *
 * `write` takes everything at once, as a kernel does that has room; `idleAtMs` says when the last byte is on its way. A
 * broken pipe swallows what is written: the writer learns of it only from the other direction.
 */
import type { World } from './world.ts';

interface Flight {
  bytes: Uint8Array;
  readonly arrivesAtMs: number;
}

export class Pipe {
  readonly #world: World;
  readonly #delayMs: number;
  readonly #bytesPerMs: number;
  readonly #onBytes: (bytes: Uint8Array) => void;
  readonly #onEnd: (cause: Error | undefined) => void;
  #flights: Flight[] = [];
  #idleAtMs = 0;
  #isBroken = false;
  #isClosed = false;

  constructor(
    world: World,
    link: { readonly delayMs: number; readonly bytesPerMs: number },
    onBytes: (bytes: Uint8Array) => void,
    onEnd: (cause: Error | undefined) => void,
  ) {
    this.#world = world;
    this.#delayMs = link.delayMs;
    this.#bytesPerMs = link.bytesPerMs;
    this.#onBytes = onBytes;
    this.#onEnd = onEnd;
  }

  get idleAtMs(): number {
    return this.#idleAtMs;
  }

  /** @param bytes kept, not copied */
  write(bytes: Uint8Array): void {
    if (this.#isBroken || this.#isClosed) return;
    const arrivesAtMs = this.#occupy(bytes.length);
    this.#flights.push({ bytes, arrivesAtMs });
    this.#world.after(arrivesAtMs - this.#world.nowMs, () => {
      const flight = this.#flights.shift();
      if (flight !== undefined && flight.bytes.length > 0) this.#onBytes(flight.bytes);
    });
  }

  /** The writer is done: the reader sees the end behind the last byte. May be called twice. */
  close(): void {
    if (this.#isBroken || this.#isClosed) return;
    this.#isClosed = true;
    this.#world.after(this.#occupy(0) - this.#world.nowMs, () => this.#onEnd(undefined));
  }

  /** The connection breaks: of what is under way only so much arrives, and then an error. */
  break(): void {
    if (this.#isBroken || this.#isClosed) return;
    this.#isBroken = true;
    const { random, nowMs } = this.#world;
    const underWayBytes = this.#flights.reduce((sum, { bytes }) => sum + bytes.length, 0);
    let arrivingBytes = random.chance(0.4) ? 0 : random.integer(0, underWayBytes);
    let endsAtMs = nowMs;
    for (const flight of this.#flights) {
      flight.bytes = flight.bytes.subarray(0, arrivingBytes);
      arrivingBytes -= flight.bytes.length;
      endsAtMs = flight.arrivesAtMs;
    }
    this.#world.after(endsAtMs - nowMs + random.skewed(50), () => this.#onEnd(new Error('reset')));
  }

  #occupy(lengthBytes: number): number {
    this.#idleAtMs = Math.max(this.#idleAtMs, this.#world.nowMs) + lengthBytes / this.#bytesPerMs;
    return this.#idleAtMs + this.#delayMs;
  }
}
