/**
 * Socket files that outlive their server: the file stays when a process dies, and `bind` then finds its path in use.
 *
 * The kernel's own table is asked first: connecting to a server to see whether it lives would take the place of the
 * source that it waits for. Servers the table does not show (another network namespace, a path spelled differently)
 * are found by connecting.
 */
import { once } from 'node:events';
import { lstatSync, readFileSync, unlinkSync } from 'node:fs';
import { connect } from 'node:net';
import { resolve } from 'node:path';
import { codeOf } from './transport-error.ts';

/**
 * Removes a socket file that no server listens on.
 *
 * @returns why the path stays in use, or undefined if it is free now
 */
export async function removeStaleSocket(path: string): Promise<string | undefined> {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return undefined;
  if (!stat.isSocket()) return 'the path is taken by something that is not a socket';
  if (isListening(path) || (await isAnswered(path))) return 'is another destination listening there?';
  unlinkSync(path);
  return undefined;
}

/** A line of /proc/net/unix: address, reference count, protocol, flags, type, state, inode, and the path as bound. */
const UNIX_SOCKET = /^\S+ \S+ \S+ (?<flags>[0-9A-F]+) \S+ \S+ +\d+ (?<path>.+)$/gm;
/** In the flags: the socket listens. Connections that such a socket accepted carry its path too. */
const SO_ACCEPTCON = 0x10000;

function isListening(path: string): boolean {
  const sockets = readFileSync('/proc/net/unix', 'utf8').matchAll(UNIX_SOCKET);
  return [...sockets].some(
    ([, flags = '', boundPath = '']) =>
      Number.parseInt(flags, 16) & SO_ACCEPTCON && resolve(boundPath) === resolve(path),
  );
}

/** Only a refusal proves that there is no server: a full queue, or missing permission, does not. */
async function isAnswered(path: string): Promise<boolean> {
  const socket = connect(path);
  try {
    await once(socket, 'connect');
    return true;
  } catch (error) {
    return codeOf(error) !== 'ECONNREFUSED' && codeOf(error) !== 'ENOENT';
  } finally {
    socket.destroy();
  }
}
