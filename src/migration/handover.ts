/**
 * Who has the guest, as the source knows it while it hands the guest over.
 *
 *   destination of ours   package without RUN ─▶ it loads the devices, and answers PING 0x42
 *                         RUN, PING 4         ─▶ it runs the guest, and answers PING 4
 *   any other             package with RUN    ─▶ it loads the devices, answers PING 3 (and 0x42), and runs the guest
 *
 * Until the last byte of RUN has left, or of the package that holds it, the guest can be taken back. From the answer on
 * that can only come from a destination that has come to RUN, the guest is gone. Between the two nobody here knows.
 * In precopy EOF is what RUN is in postcopy.
 *
 * Positions are bytes of the stream, counted from its beginning.
 */
import { PingValue } from '../wire/commands.ts';
import { PeerFeature } from '../wire/peer-features.ts';

export class Handover {
  #peerFeatures = 0;
  #isRunHeldBack = false;
  #beganAtMs = Number.NaN;
  #isLoaded = false;
  #packageEnd = Number.POSITIVE_INFINITY;
  #end = Number.POSITIVE_INFINITY;
  #isGuestGone = false;

  /** The destination says what it can do that QEMU cannot: bits of `PeerFeature`. */
  peerAnnounces(features: number): void {
    this.#peerFeatures |= features;
  }

  /** Bits of `PeerFeature`. */
  get peerFeatures(): number {
    return this.#peerFeatures;
  }

  /** The destination waits for RUN, and says before when it is ready for it. */
  get canHoldRunBack(): boolean {
    return (this.#peerFeatures & PeerFeature.RUN_HANDSHAKE) !== 0;
  }

  /** The package goes out, and ends at this position. */
  beginWithPackage(packageEnd: number, holdsRun: boolean, nowMs: number): void {
    this.#beganAtMs = nowMs;
    this.#isRunHeldBack = !holdsRun;
    if (holdsRun) this.endsAt(packageEnd);
    else this.#packageEnd = packageEnd;
  }

  /** Once so many bytes have left, the guest cannot be taken back. */
  endsAt(position: number): void {
    this.#end = position;
  }

  isOver(sentBytes: number): boolean {
    return sentBytes >= this.#end;
  }

  /** All of a package without RUN has left. */
  isPackageSent(sentBytes: number): boolean {
    return sentBytes >= this.#packageEnd;
  }

  /** The destination has loaded the devices and waits for RUN. */
  get isLoaded(): boolean {
    return this.#isLoaded;
  }

  /** The destination has come to RUN: it has run the guest, or is about to. */
  get isGuestGone(): boolean {
    return this.#isGuestGone;
  }

  /** The destination answers what only one can that has come to RUN. */
  guestIsGone(): void {
    this.#isGuestGone = true;
  }

  /** What said that the guest is gone cannot have known it. */
  guestIsHere(): void {
    this.#isGuestGone = false;
  }

  /**
   * A PING is answered.
   *
   * @param position of the PING in the stream
   */
  answered(value: number, position: number): void {
    if (this.#isRunHeldBack) {
      if (value === PingValue.PACKAGE_LOADED) this.#isLoaded = true;
      // What follows RUN is read after it.
      if (position >= this.#end) this.#isGuestGone = true;
    } else if (value === PingValue.IN_PACKAGE || value === PingValue.PACKAGE_LOADED) this.#isGuestGone = true;
  }

  /**
   * When a destination is given up that has not said that it waits for RUN; Infinity if it has, or is not asked to.
   *
   * @param timeoutMs 0 is never
   */
  givesUpAtMs(timeoutMs: number): number {
    const isAwaited = this.#isRunHeldBack && !this.#isLoaded && timeoutMs > 0;
    return isAwaited ? this.#beganAtMs + timeoutMs : Number.POSITIVE_INFINITY;
  }
}
