/**
 * Holds a rate of bytes over any stretch of time longer than a few milliseconds.
 *
 * A bucket fills at the limit and is never fuller than `burstBytes`; what is sent is taken out, even below zero, so that
 * bytes which must not wait (requested pages, commands) are paid for by what comes after them.
 */

const BURST_MS = 10;
const MIN_BURST_BYTES = 16 * 1024;

export class RateLimiter {
  #bytesPerMs = 0;
  #burstBytes = MIN_BURST_BYTES;
  #tokens = 0;
  #filledAtMs = 0;

  /** @param bytesPerSecond 0 is no limit */
  setLimit(bytesPerSecond: number, nowMs: number): void {
    if (bytesPerSecond / 1000 === this.#bytesPerMs) return;
    this.#bytesPerMs = bytesPerSecond / 1000;
    this.#burstBytes = Math.max(MIN_BURST_BYTES, this.#bytesPerMs * BURST_MS);
    this.#tokens = 0;
    this.#filledAtMs = nowMs;
  }

  /** How many bytes may be sent now; 0 or less is none, Infinity without a limit. */
  available(nowMs: number): number {
    if (this.#bytesPerMs === 0) return Number.POSITIVE_INFINITY;
    this.#tokens = Math.min(this.#burstBytes, this.#tokens + (nowMs - this.#filledAtMs) * this.#bytesPerMs);
    this.#filledAtMs = nowMs;
    return this.#tokens;
  }

  spend(bytes: number): void {
    if (this.#bytesPerMs !== 0) this.#tokens -= bytes;
  }

  /** When `bytes` (or a full bucket, if that is less) may be sent. */
  readyAtMs(nowMs: number, bytes: number): number {
    const missing = Math.min(bytes, this.#burstBytes) - this.available(nowMs);
    return missing <= 0 ? nowMs : nowMs + missing / this.#bytesPerMs;
  }
}
