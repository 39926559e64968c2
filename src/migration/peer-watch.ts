/**
 * Whether the other side is still there, as the source of a migration can tell without the help of the network: a network that
 * swallows everything, a tunnel whose far end is gone, or a process that has been stopped, never breaks a connection.
 *
 * While nothing else is sent, the source sends a PING every BEAT_MS: the destination hears that the source is there, and its
 * answer says the same of the destination. Only one such PING is under way, since what the kernel takes in proves nothing.
 * A side that owes an answer, or does not take what it is sent, for as long as `x-peer-timeout` is given up.
 */

/** Several of them fit into the shortest `x-peer-timeout`, also that of the other side. */
export const BEAT_MS = 1000;

export class PeerWatch {
  /** When the peer was last heard of, or took anything. */
  #aliveAtMs = 0;
  #isAsked = false;

  begin(nowMs: number): void {
    this.#aliveAtMs = nowMs;
    this.#isAsked = false;
  }

  /** The peer has said something. */
  heard(nowMs: number): void {
    this.begin(nowMs);
  }

  /** The connection has taken something. */
  took(nowMs: number): void {
    this.#aliveAtMs = nowMs;
  }

  /** The peer has been asked something. */
  asked(): void {
    this.#isAsked = true;
  }

  /** When the peer is to be asked whether it is there, if nothing else is sent; Infinity if it has been. */
  get beatAtMs(): number {
    return this.#isAsked ? Number.POSITIVE_INFINITY : this.#aliveAtMs + BEAT_MS;
  }

  /**
   * When the peer is given up; Infinity if it owes nothing.
   *
   * @param isAwaited it owes something else than the answer to a question
   */
  givesUpAtMs(timeoutMs: number, isAwaited: boolean): number {
    return this.#isAsked || isAwaited ? this.#aliveAtMs + timeoutMs : Number.POSITIVE_INFINITY;
  }
}
