/**
 * A network between two processes of a test, which can be slow, can break and come back, and can hold back what follows
 * a certain point of a stream.
 */
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import type { TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { atEnd } from './cleanup.ts';

/** Where one direction stops. */
class Barrier {
  #before: Buffer | undefined;
  #seen = Buffer.alloc(0);
  #isHolding = false;
  #release = () => {};

  /** Said in front of what comes first. */
  prefix: Uint8Array | undefined;

  /** From the next occurrence of these bytes on, nothing passes. */
  holdBefore(bytes: Buffer): void {
    this.#before = bytes;
  }

  get isHolding(): boolean {
    return this.#isHolding;
  }

  letThrough(): void {
    this.#before = undefined;
    this.#isHolding = false;
    this.#release();
  }

  /** Waits where it must. The bytes may come in pieces: a part of them passes then. */
  async pass(chunk: Buffer, write: (piece: Buffer) => void): Promise<void> {
    if (this.prefix !== undefined) write(Buffer.from(this.prefix));
    this.prefix = undefined;
    if (this.#isHolding) await this.#wait();
    const before = this.#before;
    const seen = Buffer.concat([this.#seen, chunk]);
    const at = before === undefined ? -1 : seen.indexOf(before);
    this.#seen = seen.subarray(seen.length - Math.min(seen.length, (before?.length ?? 1) - 1));
    const passes = at < 0 ? chunk.length : Math.max(0, at - (seen.length - chunk.length));
    if (passes > 0) write(chunk.subarray(0, passes));
    if (passes === chunk.length) return;
    this.#isHolding = true;
    await this.#wait();
    write(chunk.subarray(passes));
  }

  #wait(): Promise<void> {
    return new Promise((resolve) => {
      this.#release = resolve;
    });
  }
}

export class TcpProxy {
  /** The stream of the source. */
  readonly stream = new Barrier();
  readonly returnPath = new Barrier();
  readonly targetPort: number;
  readonly #bytesPerSecond: number;
  readonly #sockets = new Set<Socket>();
  /** Those of them that have come, and take those that lead on with them when they close. */
  readonly #sources = new Set<Socket>();
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
    this.targetPort = targetPort;
    this.#bytesPerSecond = bytesPerSecond;
  }

  get uri(): string {
    return `tcp:127.0.0.1:${this.#port}`;
  }

  /** Breaks the connections of whoever has come; those that lead on stay, and nothing comes of them any more. */
  desert(): void {
    const sources = [...this.#sources];
    this.#sources.clear();
    for (const socket of sources) socket.resetAndDestroy();
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
    const destination = connect(this.targetPort, '127.0.0.1');
    this.#sources.add(source);
    for (const [socket, other] of [
      [source, destination],
      [destination, source],
    ] as const) {
      this.#sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => {
        this.#sockets.delete(socket);
        if (socket === destination || this.#sources.delete(source)) other.destroy();
      });
    }
    void this.#carry(destination, source, this.returnPath, Infinity);
    void this.#carry(source, destination, this.stream, this.#bytesPerSecond);
  }

  async #carry(from: Socket, to: Socket, barrier: Barrier, bytesPerSecond: number): Promise<void> {
    try {
      for await (const chunk of from) {
        let isRoomy = true;
        await barrier.pass(chunk as Buffer, (piece) => {
          isRoomy = to.write(piece);
        });
        if (!isRoomy) await new Promise((resolve) => to.once('drain', resolve).once('close', resolve));
        const waitMs = ((chunk as Buffer).length / bytesPerSecond) * 1000;
        if (waitMs > 0) await sleep(waitMs);
      }
      to.end();
    } catch {
      // Its connection was broken, and the other is with it.
    }
  }
}
