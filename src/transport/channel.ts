/**
 * One byte channel of a migration: a descriptor that a migration thread reads and writes by itself.
 *
 * Node's event loop does not know the descriptor. Its owner is the channel until `detach()`, and then the caller.
 */
import assert from 'node:assert/strict';
import { closeFd } from '../linux/fd.ts';

export interface Channel {
  /** Non-blocking; -1 once the channel is closed or detached. */
  readonly fd: number;
  /** Whether bytes can also flow back: true of sockets, false of pipes and files. */
  readonly hasReturnPath: boolean;
  /** Whom the bytes come from or go to, for messages: `tcp:127.0.0.1:4444`. */
  readonly peer: string;
  /** Gives the descriptor away: the caller must close it. */
  detach(): number;
  /** Closes the descriptor unless it was given away. May be called twice. */
  close(): void;
  /**
   * Waits for what follows the last byte: the command of `exec:` to exit. The others resolve at once.
   *
   * Close the descriptor first, or the command of a source waits for more. A command nobody waits for here does not
   * keep this process alive.
   *
   * @throws {TransportError} `COMMAND_FAILED`: `Command "…" exited with code 3`
   */
  finished(): Promise<void>;
}

export interface ChannelOptions {
  /** Open and non-blocking; owned by the channel from now on. */
  readonly fd: number;
  readonly hasReturnPath: boolean;
  readonly peer: string;
  readonly finished?: () => Promise<void>;
}

export class FdChannel implements Channel {
  readonly hasReturnPath: boolean;
  readonly peer: string;
  readonly #finished: () => Promise<void>;
  #fd: number;

  constructor(options: ChannelOptions) {
    this.hasReturnPath = options.hasReturnPath;
    this.peer = options.peer;
    this.#fd = options.fd;
    this.#finished = options.finished ?? (() => Promise.resolve());
  }

  get fd(): number {
    return this.#fd;
  }

  detach(): number {
    assert.notEqual(this.#fd, -1, 'the channel is closed or detached');
    const fd = this.#fd;
    this.#fd = -1;
    return fd;
  }

  close(): void {
    if (this.#fd === -1) return;
    closeFd(this.detach());
  }

  finished(): Promise<void> {
    return this.#finished();
  }
}
