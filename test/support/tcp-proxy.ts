/**
 * A network between two processes of a test, which can be slow, and can break and come back.
 */
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import type { TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { atEnd } from './cleanup.ts';

export class TcpProxy {
  readonly #targetPort: number;
  readonly #bytesPerSecond: number;
  readonly #sockets = new Set<Socket>();
  #server: Server | undefined;
  #port = 0;

  /**
   * Listens at a free port of 127.0.0.1 and passes on what comes there.
   *
   * @param targetPort of 127.0.0.1
   * @param bytesPerSecond of the way there; the way back is never slow
   */
  static async start(t: TestContext, targetPort: number, bytesPerSecond = Infinity): Promise<TcpProxy> {
    const proxy = new TcpProxy(targetPort, bytesPerSecond);
    await proxy.mend();
    atEnd(t, () => proxy.cut());
    return proxy;
  }

  private constructor(targetPort: number, bytesPerSecond: number) {
    this.#targetPort = targetPort;
    this.#bytesPerSecond = bytesPerSecond;
  }

  get uri(): string {
    return `tcp:127.0.0.1:${this.#port}`;
  }

  /** Breaks all connections; new ones are refused. */
  cut(): void {
    this.#server?.close();
    this.#server = undefined;
    for (const socket of this.#sockets) socket.resetAndDestroy();
    this.#sockets.clear();
  }

  /** Listens again, at the same port. */
  async mend(): Promise<void> {
    const server = createServer((socket) => this.#join(socket));
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(this.#port, '127.0.0.1', resolve);
    });
    this.#server = server;
    this.#port = (server.address() as AddressInfo).port;
  }

  #join(source: Socket): void {
    const destination = connect(this.#targetPort, '127.0.0.1');
    for (const [socket, other] of [
      [source, destination],
      [destination, source],
    ] as const) {
      this.#sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => {
        this.#sockets.delete(socket);
        other.destroy();
      });
    }
    destination.pipe(source);
    void this.#carry(source, destination);
  }

  async #carry(source: Socket, destination: Socket): Promise<void> {
    try {
      for await (const chunk of source) {
        const isRoomy = destination.write(chunk as Buffer);
        if (!isRoomy)
          await new Promise((resolve) => destination.once('drain', resolve).once('close', resolve));
        const waitMs = ((chunk as Buffer).length / this.#bytesPerSecond) * 1000;
        if (waitMs > 0) await sleep(waitMs);
      }
      destination.end();
    } catch {
      // Its connection was broken, and the other is with it.
    }
  }
}
