/**
 * What a connection begins with, to tell who has come before anything of it is taken.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { peek } from '../linux/socket-options.ts';
import type { Channel } from './channel.ts';

const PEEK_EVERY_MS = 5;

/**
 * The first byte, which stays to be read.
 *
 * @param channel a connection; it stays the caller's
 * @returns `closed` if it ends before, `silent` if nothing came in time, or the signal has fired
 */
export async function firstByte(
  channel: Channel,
  limitMs: number,
  signal: AbortSignal,
): Promise<number | 'silent' | 'closed'> {
  const endsAtMs = performance.now() + limitMs;
  while (performance.now() < endsAtMs && !signal.aborted) {
    try {
      const bytes = peek(channel.fd, 1);
      if (bytes !== undefined) return bytes[0] ?? 'closed';
    } catch {
      return 'closed';
    }
    await sleep(PEEK_EVERY_MS);
  }
  return 'silent';
}
