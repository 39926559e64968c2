/**
 * How much pushed data may be under way in postcopy, so that a requested page does not wait behind it.
 *
 * What is under way is measured by pings in the stream: a PONG means that the destination has decoded everything before
 * its PING, whatever queues lie between. The window is twice what the path holds when it is just full (its rate times
 * its round trip when nothing else is under way): enough never to run dry, and no more.
 *
 * While the window is full every round trip has a queue in it, and a window made from those would grow by itself. So now
 * and then the path is let run empty, and one piece alone tells its round trip.
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
/** A sample of the rate is taken over so long at least: PONGs come in bursts. */
const RATE_SAMPLE_MS = 1;
/** A path can become longer: its round trip is measured again after so long, ... */
const PROBE_MS = 250;
/** ... or after so many round trips, since each measurement costs about two. */
const PROBE_ROUND_TRIPS = 100;

export class BulkWindow {
  #sentPosition = 0;
  #decodedPosition = 0;
  #bytesPerMs = 0;
  /** What came since the last sample of the rate. */
  #sampleBytes = 0;
  #sampledAtMs = Number.NaN;
  #roundTripMs = Number.POSITIVE_INFINITY;
  #probedAtMs = Number.NaN;
  /** draining: nothing is pushed until all has arrived; probing: one piece is alone on its way. */
  #state: 'open' | 'draining' | 'probing' = 'open';
  #pieceBytes = MIN_PIECE_BYTES;
  #requestedAtMs = Number.NEGATIVE_INFINITY;

  /** Nothing is under way at this stream position. */
  open(position: number): void {
    this.#sentPosition = position;
    this.#decodedPosition = position;
    this.#sampleBytes = 0;
    this.#sampledAtMs = Number.NaN;
    this.#state = 'open';
  }

  get sizeBytes(): number {
    const minBytes = 2 * this.#pieceBytes;
    if (!Number.isFinite(this.#roundTripMs)) return minBytes;
    const wanted = 2 * this.#bytesPerMs * this.#roundTripMs;
    return Math.min(MAX_WINDOW_BYTES, Math.max(minBytes, wanted));
  }

  get isOpen(): boolean {
    const underWayBytes = this.#sentPosition - this.#decodedPosition;
    return this.#state === 'open' ? underWayBytes < this.sizeBytes : underWayBytes <= 0;
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
    this.#measureRate(bytes, nowMs);
    if (nowMs - this.#requestedAtMs >= BUSY_MS) {
      const piece = Math.min(2 * this.#pieceBytes, Math.floor(this.#bytesPerMs * PIECE_MS), MAX_PIECE_BYTES);
      this.#pieceBytes = Math.max(MIN_PIECE_BYTES, piece);
    }
    this.#measureRoundTrip(roundTripMs, nowMs);
  }

  #measureRate(bytes: number, nowMs: number): void {
    this.#sampleBytes += bytes;
    const elapsedMs = nowMs - this.#sampledAtMs;
    if (elapsedMs < RATE_SAMPLE_MS) return;
    // The first has nothing to be measured from.
    if (!Number.isNaN(elapsedMs))
      this.#bytesPerMs += RATE_GAIN * (this.#sampleBytes / elapsedMs - this.#bytesPerMs);
    this.#sampleBytes = 0;
    this.#sampledAtMs = nowMs;
  }

  #measureRoundTrip(roundTripMs: number, nowMs: number): void {
    // Pings that are sent when nothing is pushed tell of positions behind all that was.
    const isEmpty = this.#decodedPosition >= this.#sentPosition;
    if (this.#state === 'probing' && isEmpty) {
      this.#roundTripMs = roundTripMs;
      this.#probedAtMs = nowMs;
      this.#state = 'open';
      return;
    }
    if (!Number.isFinite(this.#roundTripMs)) this.#probedAtMs = nowMs;
    this.#roundTripMs = Math.min(this.#roundTripMs, roundTripMs);
    const isDue = nowMs - this.#probedAtMs >= Math.max(PROBE_MS, PROBE_ROUND_TRIPS * this.#roundTripMs);
    if (this.#state === 'open' && isDue) this.#state = 'draining';
    if (this.#state === 'draining' && isEmpty) this.#state = 'probing';
  }
}
