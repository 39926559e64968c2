/**
 * How much pushed data may be under way in postcopy, so that a requested page does not wait behind it.
 *
 * What is under way is measured by pings in the stream: a PONG means that the destination has decoded everything before
 * its PING, whatever queues lie between. The window is twice what the path holds when it is just full (its rate times
 * its shortest round trip): enough never to run dry, and no more.
 *
 * Pieces grow while nothing is asked for, and are small again with the first request.
 */

/** Pushed pages go out in pieces, each with a ping behind it: what a request may have to wait for in our own hands. */
const MIN_PIECE_BYTES = 32 * 1024;
const MAX_PIECE_BYTES = 256 * 1024;
/** Where nothing is asked for, a piece may take so long on the way: fewer pings, and nobody waits behind them. */
const PIECE_MS = 0.25;
/** A request makes pieces small for so long. */
const BUSY_MS = 20;
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
  #pieceBytes = MIN_PIECE_BYTES;
  #requestedAtMs = Number.NEGATIVE_INFINITY;

  /** Nothing is under way at this stream position. */
  open(position: number): void {
    this.#sentPosition = position;
    this.#decodedPosition = position;
    this.#lastPongAtMs = Number.NaN;
  }

  get sizeBytes(): number {
    const minBytes = 2 * this.#pieceBytes;
    if (!Number.isFinite(this.#shortestRoundTripMs)) return minBytes;
    const wanted = 2 * this.#bytesPerMs * this.#shortestRoundTripMs;
    return Math.min(MAX_WINDOW_BYTES, Math.max(minBytes, wanted));
  }

  get isOpen(): boolean {
    return this.#sentPosition - this.#decodedPosition < this.sizeBytes;
  }

  /** How much to push at once. */
  get pieceBytes(): number {
    return this.#pieceBytes;
  }

  /** A page was asked for: its neighbours, and the next request, may wait behind what is pushed now. */
  requested(nowMs: number): void {
    this.#requestedAtMs = nowMs;
    this.#pieceBytes = MIN_PIECE_BYTES;
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
    if (nowMs - this.#requestedAtMs >= BUSY_MS) {
      const piece = Math.min(2 * this.#pieceBytes, Math.floor(this.#bytesPerMs * PIECE_MS), MAX_PIECE_BYTES);
      this.#pieceBytes = Math.max(MIN_PIECE_BYTES, piece);
    }
    this.#shortestRoundTripMs = Math.min(roundTripMs, this.#shortestRoundTripMs * ROUND_TRIP_GROWTH);
  }
}
