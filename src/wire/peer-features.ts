/**
 * What two of ours say to each other that QEMU does not: a destination announces it, a source goes by it.
 *
 * Right after OPEN_RETURN_PATH the destination says a PONG that nobody asked for. A source that does not know it, such as
 * QEMU, takes it for the answer to somebody else's PING and goes on.
 *
 *   bits    value of the PONG
 *   31..16  0x7063
 *   15..0   features: bit 0 run-handshake, bit 1 checksums; a source passes over those that it does not know
 */

export const PeerFeature = {
  /** The destination waits for a RUN that comes behind the package, once it has answered the last PING in that. */
  RUN_HANDSHAKE: 1 << 0,
  /** The destination compares checksums of pages. */
  CHECKSUMS: 1 << 1,
} as const;

const MAGIC = 0x7063;

/**
 * @param features bits of `PeerFeature`, 16 at most
 * @returns the value of the PONG
 */
export function encodePeerFeatures(features: number): number {
  return MAGIC * 0x1_0000 + (features & 0xffff);
}

/** @returns the features, or undefined if the value of this PONG announces none */
export function decodePeerFeatures(pongValue: number): number | undefined {
  return Math.floor(pongValue / 0x1_0000) === MAGIC ? pongValue & 0xffff : undefined;
}
