/**
 * The bytes below TLS, as they cross the network.
 *
 * Node's TLS takes the end of the network for the end of the stream. A stream that was cut off must not look like one that
 * has ended, so the bytes pass through here, and whoever looks knows which of the two came first.
 */
import type { Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { TlsFailure } from './tls-failure.ts';

const READ_AHEAD_BYTES = 64 * 1024;
const WRITE_AHEAD_BYTES = 128 * 1024;
/** What TLS begins with: a handshake record; or an alert of somebody who does not want to. */
const FIRST_BYTES = [0x16, 0x15];

export class RawStream extends Duplex {
  readonly #socket: Socket;
  #isFirst = true;

  /** @param socket owned by the stream from now on */
  constructor(socket: Socket) {
    super({
      allowHalfOpen: true,
      // What was decrypted may still wait to be read when both directions have ended.
      autoDestroy: false,
      readableHighWaterMark: READ_AHEAD_BYTES,
      writableHighWaterMark: WRITE_AHEAD_BYTES,
    });
    this.#socket = socket;
    socket.on('data', (bytes: Buffer) => {
      if (this.#isFirst && !FIRST_BYTES.includes(bytes[0] as number)) {
        this.destroy(notTls(bytes));
        return;
      }
      this.#isFirst = false;
      if (!this.push(bytes)) socket.pause();
    });
    socket.on('end', () => this.push(null));
    socket.on('error', (error) => this.destroy(error));
  }

  override _read(): void {
    this.#socket.resume();
  }

  override _write(bytes: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    this.#socket.write(bytes, done);
  }

  override _writev(pieces: { chunk: Buffer }[], done: (error?: Error | null) => void): void {
    this.#socket.cork();
    const last = pieces.pop();
    for (const { chunk } of pieces) this.#socket.write(chunk);
    if (last !== undefined) this.#socket.write(last.chunk, done);
    this.#socket.uncork();
  }

  override _final(done: () => void): void {
    this.#socket.end(done);
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#socket.destroy();
    done(error);
  }

  /** The other side finds the connection reset, rather than at its end. */
  reset(): void {
    if (this.#socket.destroyed) return;
    try {
      this.#socket.resetAndDestroy();
    } catch {
      this.#socket.destroy(); // Only TCP can be reset.
    }
    this.destroy();
  }
}

/** @param bytes that came instead of TLS's */
export function notTls(bytes: Uint8Array): TlsFailure {
  const isMigration = Buffer.from(bytes.subarray(0, 4)).toString('latin1') === 'QEVM';
  const what = isMigration
    ? 'a migration that is not protected: set tls-creds at its source too'
    : `it is not TLS, beginning with 0x${Buffer.from(bytes.subarray(0, 4)).toString('hex')}`;
  return new TlsFailure('NOT_TLS', isMigration ? `what came is ${what}` : what);
}
