/**
 * Pumps bytes between a TLS connection and a pair of sockets, whose other end a migration thread uses like a connection.
 *
 *   network ◀──▶ RawStream ◀──▶ TLSSocket ◀──▶ pair ◀──▶ the engine's descriptor
 *
 * Each end passes on as what it was:
 *
 *   close_notify                      the engine reads the end, and may still send
 *   reset, or an end without it       ECONNRESET at the engine, behind what had come by then: it was cut off
 *   the engine shuts its writing      close_notify and the end of TCP's writing; what comes is still passed on
 *   the engine closes                 the same; what comes then resets the connection, as TCP does
 *   the engine's process dies         no close_notify: the other side knows that it was cut off
 *
 * What waits is bounded by the streams' marks: who does not read makes the other side wait.
 */
import { fstatSync } from 'node:fs';
import { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import { setNonblocking } from '../linux/fd.ts';
import { isPeerGone, resetAtClose, socketPair } from '../linux/socket-pair.ts';
import type { RawStream } from './raw-stream.ts';
import { TlsFailure } from './tls-failure.ts';

/** How often an engine that has sent its last is looked after: it may have closed its descriptor. */
const GONE_CHECK_MS = 50;
/** How long the other side may take to close a connection that the engine has closed, and to read what was left. */
const WRITE_AHEAD = { highWaterMark: 256 * 1024 };
const LINGER_MS = 10_000;
const FLUSH_MS = 60_000;

export interface TlsPumpEvents {
  /** Whether the network ended before TLS did. Known before `tls` says that it is at its end. */
  isCutOff(): boolean;
  /** The connection broke; called at most once. */
  broken(error: unknown): void;
}

export class TlsPump {
  /** The engine's end: somebody else closes it. */
  readonly engineFd: number;
  readonly #engineInode: bigint;
  readonly #pair: Socket;
  readonly #pairFd: number;
  readonly #raw: RawStream;
  readonly #tls: TLSSocket;
  readonly #events: TlsPumpEvents;
  /** The engine has sent its last; has closed its end; the other side has sent its last. */
  #isEngineAtEnd = false;
  #isEngineGone = false;
  #isPeerAtEnd = false;
  /** What the engine has sent is the network's. */
  #isFlushed = false;
  /** Something has come that the engine will never read. */
  #hasUnread = false;
  #isOver = false;
  #timer: NodeJS.Timeout | undefined;

  /**
   * @param tls its handshake done, nothing read from it
   */
  constructor(raw: RawStream, tls: TLSSocket, events: TlsPumpEvents) {
    const [engineFd, pairFd] = socketPair();
    setNonblocking(engineFd, true);
    setNonblocking(pairFd, true);
    this.engineFd = engineFd;
    this.#engineInode = fstatSync(engineFd, { bigint: true }).ino;
    this.#pairFd = pairFd;
    this.#pair = new Socket({ fd: pairFd, allowHalfOpen: true, ...WRITE_AHEAD });
    this.#raw = raw;
    this.#tls = tls;
    this.#events = events;
  }

  start(): void {
    const [tls, pair, raw] = [this.#tls, this.#pair, this.#raw];
    tls.on('data', (bytes: Buffer) => {
      if (this.#isEngineGone) this.#receivedInVain();
      else if (!pair.write(bytes)) tls.pause();
    });
    pair.on('drain', () => tls.resume());
    pair.on('data', (bytes: Buffer) => {
      if (!tls.write(bytes)) pair.pause();
    });
    tls.on('drain', () => pair.resume());

    tls.on('end', () => this.#peerEnded());
    tls.on('error', (error) => this.#broken(error));
    tls.on('close', () => this.#closed());
    raw.on('error', (error) => this.#broken(error));
    pair.on('end', () => this.#engineEnded());
    // It has closed its descriptor, perhaps with bytes unread: what it had sent has been read here first.
    pair.on('error', () => this.#engineGone());
    if (tls.destroyed) this.#closed();
  }

  /** This process ends: an engine that has not closed its descriptor never will. */
  endNow(): void {
    if (this.#isEngineAtEnd || isPeerGone(this.#pairFd)) return;
    this.#finish(() => this.#raw.destroy());
  }

  /** This thread cannot go on. */
  fail(error: Error): void {
    this.#broken(error);
  }

  #peerEnded(): void {
    if (this.#isOver) return;
    if (this.#events.isCutOff()) {
      this.#broken(new TlsFailure('CUT_OFF', 'the connection ended without an end of TLS: it was cut off'));
      return;
    }
    this.#isPeerAtEnd = true;
    this.#pair.end();
    this.#finishIfDone();
  }

  #engineEnded(): void {
    if (this.#isEngineAtEnd || this.#isOver) return;
    this.#isEngineAtEnd = true;
    this.#tls.end(() => this.#flushed());
    this.#watchEngine();
  }

  /** It may only have sent its last, or it may be gone. */
  #watchEngine(): void {
    if (this.#isOver || this.#isEngineGone) return;
    if (isPeerGone(this.#pairFd)) this.#engineGone();
    else this.#timer = setTimeout(() => this.#watchEngine(), GONE_CHECK_MS);
  }

  #engineGone(): void {
    if (this.#isEngineGone || this.#isOver) return;
    this.#isEngineGone = true;
    this.#hasUnread = this.#pair.writableLength > 0;
    this.#engineEnded();
    this.#linger();
    this.#tls.resume();
    this.#finishIfDone();
  }

  /** Whoever sends something that is never read learns it from a reset, once it has what was sent to it. */
  #receivedInVain(): void {
    this.#hasUnread = true;
    if (this.#isFlushed) this.#abandonPeer();
  }

  #linger(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#abandonPeer(), this.#isFlushed ? LINGER_MS : FLUSH_MS);
  }

  #flushed(): void {
    this.#isFlushed = true;
    if (this.#isOver) return;
    if (this.#hasUnread) this.#abandonPeer();
    else {
      if (this.#isEngineGone) this.#linger();
      this.#finishIfDone();
    }
  }

  #finishIfDone(): void {
    if (this.#isPeerAtEnd && this.#isEngineAtEnd && this.#isFlushed) this.#finish(() => this.#raw.destroy());
  }

  #abandonPeer(): void {
    this.#finish(() => this.#raw.reset());
  }

  /** What had come by then is the engine's still. */
  #broken(error: unknown): void {
    if (this.#isOver) return;
    const pair = this.#pair;
    const isTold = !this.#isEngineGone && !this.#isPeerAtEnd;
    if (isTold) this.#events.broken(error);
    this.#isOver = true;
    clearTimeout(this.#timer);
    this.#raw.destroy();
    this.#tls.destroy();
    if (this.#isEngineGone || pair.writableFinished) {
      pair.destroy();
      return;
    }
    const close = () => {
      pair.pause();
      if (isTold && !pair.destroyed) resetAtClose(this.engineFd, this.#engineInode);
      pair.destroy();
    };
    pair.removeAllListeners('error').on('error', close);
    if (this.#isPeerAtEnd)
      pair.once('finish', close); // It had said all, and all of it is passed on.
    else pair.write('', close);
  }

  #closed(): void {
    this.#broken(new TlsFailure('CLOSED', 'the connection was closed'));
  }

  #finish(closeNetwork: () => void): void {
    if (this.#isOver) return;
    this.#isOver = true;
    clearTimeout(this.#timer);
    closeNetwork();
    this.#tls.destroy();
    this.#pair.destroy();
  }
}
