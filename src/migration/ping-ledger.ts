/**
 * Pings that are under way: when each left, and how far the stream was.
 *
 * A PONG says two things: how long the way there and back took, and that the destination has decoded the stream up to
 * its PING. The first is a statistic, the second bounds what is in flight. Pings are answered in stream order, except
 * that those inside a package and those behind it may overtake each other.
 */

/** Above the fixed values that mark points of the protocol. */
const FIRST_SEQUENCE_VALUE = 0x1000;

export interface Pong {
  readonly roundTripMs: number;
  /** Stream position of the ping. */
  readonly position: number;
}

export class PingLedger {
  readonly #sent = new Map<number, { atMs: number; position: number }>();
  #nextValue = FIRST_SEQUENCE_VALUE;

  /** @returns the value of a ping of our own */
  next(): number {
    const value = this.#nextValue;
    this.#nextValue = value === 0xffff_ffff ? FIRST_SEQUENCE_VALUE : value + 1;
    return value;
  }

  sent(value: number, atMs: number, position: number): void {
    this.#sent.set(value, { atMs, position });
  }

  /** Those under way will not be answered any more. */
  clear(): void {
    this.#sent.clear();
  }

  /** @returns undefined for a value that is not under way: the peer answers what was not asked */
  answered(value: number, nowMs: number): Pong | undefined {
    const ping = this.#sent.get(value);
    if (ping === undefined) return undefined;
    this.#sent.delete(value);
    return { roundTripMs: nowMs - ping.atMs, position: ping.position };
  }
}
