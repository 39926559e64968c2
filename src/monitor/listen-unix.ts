/**
 * Listens at a unix socket, and takes the place of one that nobody serves any more.
 *
 * A monitor can run shell commands (`exec:`) and write files: the socket is open to its owner only.
 */
import { lstatSync, unlinkSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';

/**
 * @param onConnection gets sockets that stay writable when the client has sent its last byte
 * @returns a server; its `close()` removes the socket file
 * @throws {Error} if the path is in use or cannot be made, with a text that says which
 */
export async function listenUnix(path: string, onConnection: (socket: Socket) => void): Promise<Server> {
  try {
    return await listenOnce(path, onConnection);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw cannotListen(path, error as Error);
  }
  if (!lstatSync(path).isSocket()) throw cannotListen(path, new Error('a file that is no socket is there'));
  if (await isServed(path)) throw cannotListen(path, new Error('another process serves it'));
  try {
    unlinkSync(path);
    return await listenOnce(path, onConnection);
  } catch (error) {
    throw cannotListen(path, error as Error);
  }
}

function listenOnce(path: string, onConnection: (socket: Socket) => void): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer({ allowHalfOpen: true }, onConnection);
    server.once('error', reject);
    server.once('listening', () => resolve(server));
    const umask = process.umask(0o077);
    server.listen({ path });
    process.umask(umask);
  });
}

/** A socket file stays behind when its process is killed; then nobody answers. */
function isServed(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(path);
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', (error: NodeJS.ErrnoException) => resolve(error.code !== 'ECONNREFUSED'));
  });
}

function cannotListen(path: string, cause: Error): Error {
  return new Error(`Cannot listen at "${path}": ${cause.message}`, { cause });
}
