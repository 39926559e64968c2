/**
 * Takes a connected socket out of Node's hands.
 *
 * The descriptor is duplicated and Node's own one closed. That does not shut the connection down: it lives as long as
 * one descriptor of it does. The socket must have been paused since before it connected, or Node may have read from it.
 */
import assert from 'node:assert/strict';
import type { Socket } from 'node:net';
import { dupCloexec } from '../linux/fd.ts';
import { type Channel, FdChannel } from './channel.ts';
import { formatMigrationUri, type MigrationUri } from './parse-uri.ts';

/** An idle connection is probed after this time; libuv sends 10 probes, one a second. */
export const KEEP_ALIVE_DELAY_MS = 10_000;
/** A peer that acknowledges nothing for so long is gone, or the network to it is. */
export const PEER_TIMEOUT_MS = 60_000;

/**
 * @param uri what the peer is called when it has no address of its own
 * @throws {SyscallError} `EMFILE` if there are too many descriptors; the connection is then closed
 */
export function takeSocket(socket: Socket, uri: MigrationUri): Channel {
  const peer = peerOf(socket, uri);
  try {
    return new FdChannel({ fd: dupCloexec(fdOf(socket)), hasReturnPath: true, peer });
  } finally {
    socket.destroy();
  }
}

/** Node has no public way to the descriptor of a socket; the handle's `fd` has been there since Node 0.x. */
function fdOf(socket: Socket): number {
  const { _handle: handle } = socket as unknown as { _handle: { fd: number } | null };
  assert(handle !== null && handle.fd >= 0, 'the socket is not connected');
  return handle.fd;
}

function peerOf({ remoteAddress, remotePort }: Socket, uri: MigrationUri): string {
  if (uri.scheme !== 'tcp' || remoteAddress === undefined || remotePort === undefined) {
    return formatMigrationUri(uri);
  }
  return formatMigrationUri({
    scheme: 'tcp',
    host: remoteAddress.replace(/^::ffff:(?=[\d.]+$)/, ''),
    port: remotePort,
  });
}
