/**
 * Drives channels as a migration thread would, non-blocking, but without blocking the thread that the tests share.
 */
import assert from 'node:assert/strict';
import { readSync, writeSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import type { Channel } from '../../src/transport/channel.ts';
import { TransportError } from '../../src/transport/transport-error.ts';

const DEADLINE_MS = 30_000;
/** Far more than the buffers between two ends hold. */
const MAX_FILL_BYTES = 256 * 2 ** 20;

export function isTransportError(code: string): (error: unknown) => true {
  return (error) => {
    assert(error instanceof TransportError, String(error));
    assert.equal(error.code, code, error.message);
    return true;
  };
}

/** Runs `body` with a function that keeps channels, which are closed at the end, and their commands waited for. */
export async function withChannels(
  body: (keep: (channel: Channel) => Channel) => Promise<void>,
): Promise<void> {
  const channels: Channel[] = [];
  try {
    await body((channel) => {
      channels.push(channel);
      return channel;
    });
  } finally {
    for (const channel of channels) channel.close();
    await Promise.allSettled(channels.map((channel) => channel.finished()));
  }
}

export async function sendAll(fd: number, bytes: Uint8Array): Promise<void> {
  const deadlineMs = performance.now() + DEADLINE_MS;
  for (let at = 0; at < bytes.length; ) {
    const count = unlessBlocked(() => writeSync(fd, bytes, at));
    at += count ?? 0;
    if (count !== undefined) continue;
    assert(performance.now() < deadlineMs, `no room to write to descriptor ${fd}`);
    await turn();
  }
}

/** @returns exactly `lengthBytes`, or fewer if the end comes first */
export async function receive(fd: number, lengthBytes: number): Promise<Buffer> {
  const buffer = Buffer.alloc(65536);
  const pieces: Buffer[] = [];
  const deadlineMs = performance.now() + DEADLINE_MS;
  for (let leftBytes = lengthBytes; leftBytes > 0; ) {
    const count = unlessBlocked(() => readSync(fd, buffer, 0, Math.min(leftBytes, buffer.length), null));
    if (count === 0) break;
    if (count === undefined) {
      assert(performance.now() < deadlineMs, `no more bytes from descriptor ${fd}`);
      await turn();
      continue;
    }
    pieces.push(Buffer.from(buffer.subarray(0, count)));
    leftBytes -= count;
  }
  return Buffer.concat(pieces);
}

export function receiveToEnd(fd: number): Promise<Buffer> {
  return receive(fd, Number.POSITIVE_INFINITY);
}

export async function until(condition: () => boolean, what: string): Promise<void> {
  const deadlineMs = performance.now() + DEADLINE_MS;
  while (!condition()) {
    assert(performance.now() < deadlineMs, `waited in vain for ${what}`);
    await turn();
  }
}

/** Writes `chunk` again and again until the system takes no more. */
export function fill(fd: number, chunk: Uint8Array): number {
  for (let sentBytes = 0; sentBytes < MAX_FILL_BYTES; ) {
    const count = unlessBlocked(() => writeSync(fd, chunk, sentBytes % chunk.length));
    if (count === undefined) return sentBytes;
    sentBytes += count;
  }
  assert.fail('the system takes bytes without end');
}

function unlessBlocked(transfer: () => number): number | undefined {
  try {
    return transfer();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return undefined;
    throw error;
  }
}
