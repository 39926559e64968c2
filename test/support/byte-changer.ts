/**
 * A proxy between two sides of a connection that changes one byte of what the first sends, or cuts it off there, and
 * counts what passes.
 */
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import type { TestContext } from 'node:test';
import { atEnd } from './cleanup.ts';

/** What happens to a byte of the stream. */
export interface Change {
  /** @returns the position in `bytes`, whose first is stream byte `at`, or -1 to let it pass */
  find(bytes: Buffer, at: number): number;
  /** 'cut' closes the connection in front of it. */
  readonly how: 'flip' | 'cut';
}

export class ByteChanger {
  readonly address: string;
  /** Stream byte that was changed. */
  changedAt: number | undefined;
  /** Everything that came, unchanged, up to the last piece. */
  readonly passed: Buffer[] = [];
  readonly #server: Server;

  /** @param target the path of a unix socket @param path where it listens */
  static async start(t: TestContext, path: string, target: string, change?: Change): Promise<ByteChanger> {
    const server = createServer({ pauseOnConnect: true });
    await new Promise<void>((resolve) => server.listen(path, resolve));
    const changer = new ByteChanger(server, `unix:${path}`);
    const sockets: Socket[] = [];
    server.on('connection', (near) => {
      const far = createConnection(target);
      sockets.push(near, far);
      near.on('error', () => far.destroy());
      far.on('error', () => near.destroy());
      near.on('close', () => far.end());
      far.pipe(near);
      let at = 0;
      near.on('data', (bytes: Buffer) => {
        const position =
          changer.changedAt === undefined && change !== undefined ? change.find(bytes, at) : -1;
        if (position >= 0) {
          changer.changedAt = at + position;
          if (change?.how === 'cut') {
            far.write(bytes.subarray(0, position), () => {
              near.destroy();
              far.destroy();
            });
            return;
          }
          bytes[position]! ^= 0xff;
        }
        at += bytes.length;
        changer.passed.push(bytes);
        if (!far.write(bytes)) {
          near.pause();
          far.once('drain', () => near.resume());
        }
      });
      near.resume();
    });
    atEnd(t, () => {
      for (const socket of sockets) socket.destroy();
      server.close();
    });
    return changer;
  }

  private constructor(server: Server, address: string) {
    this.#server = server;
    this.address = address;
  }

  get bytes(): number {
    return this.passed.reduce((sum, { length }) => sum + length, 0);
  }

  close(): void {
    this.#server.close();
  }
}
