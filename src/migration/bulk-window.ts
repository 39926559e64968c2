/**
 * How much pushed data may be under way in postcopy, so that a requested page does not wait behind it.
 *
 * What is under way is measured by pings in the stream: a PONG means that the destination has decoded everything before
 * its PING, whatever queues lie between. The window is twice what the path holds when it is just full (its rate times
 * its shortest round trip): enough never to run dry, and no more.
 */

const MIN_WINDOW_BYTES = 64 * 1024;
const MAX_WINDOW_BYTES = 4 * 1024 * 1024;
/** Weight of the newest sample in the rate's moving average. */
const RATE_GAIN = 0.1;
/** The shortest round trip is forgotten slowly, since a path can become longer. */
const ROUND_TRIP_GROWTH = 1.01;

export class BulkWindow {
  #sentPosition = 0;
  #decodedPosition = 0;
  #lastPongAtMs = Number.NaN;
  #bytesPerMs = 0;
  #shortestRoundTripMs = Number.POSITIVE_INFINITY;

  /** Nothing is under way at this stream position. */
  open(position: number): void {
    this.#sentPosition = position;
    this.#decodedPosition = position;
  }

  get sizeBytes(): number {
    if (!Number.isFinite(this.#shortestRoundTripMs)) return MIN_WINDOW_BYTES;
    const wanted = 2 * this.#bytesPerMs * this.#shortestRoundTripMs;
    return Math.min(MAX_WINDOW_BYTES, Math.max(MIN_WINDOW_BYTES, wanted));
  }

  get isOpen(): boolean {
    return this.#sentPosition - this.#decodedPosition < this.sizeBytes;
  }

  /** Pushed data, and a ping behind it, reach up to this stream position. */
  sent(position: number): void {
    this.#sentPosition = position;
  }

  decoded(position: number, roundTripMs: number, nowMs: number): void {
    const bytes = position - this.#decodedPosition;
    if (bytes <= 0) return;
    this.#decodedPosition = position;
    const elapsedMs = nowMs - this.#lastPongAtMs;
    this.#lastPongAtMs = nowMs;
    if (elapsedMs > 0) this.#bytesPerMs += RATE_GAIN * (bytes / elapsedMs - this.#bytesPerMs);
    this.#shortestRoundTripMs = Math.min(roundTripMs, this.#shortestRoundTripMs * ROUND_TRIP_GROWTH);
  }
}
