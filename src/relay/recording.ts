/**
 * Keeps the bytes of the main stream as they passed, in a file.
 *
 * A migration is worth more than a record of it: when the file cannot be written the recording ends with a message, and the
 * migration goes on. Each recovery is a stream of its own, in a file of its own: PATH, PATH.2, PATH.3.
 */
import { closeSync, fstatSync, fsyncSync, openSync, writeSync } from 'node:fs';
import { systemErrorText } from '../linux/system-error-text.ts';

/** The stream holds the guest's memory: nobody else's business. */
const CREATE_MODE = 0o600;

export class Recording {
  readonly path: string;
  readonly #onError: (text: string) => void;
  #fd: number | undefined;
  #streams = 0;
  #bytes = 0;
  #error: string | null = null;

  /**
   * Opens the file; what it held is lost.
   *
   * @param onError told once, why the recording ended early
   * @throws {Error} that says why it cannot be written
   */
  constructor(path: string, onError: (text: string) => void) {
    this.path = path;
    this.#onError = onError;
    try {
      this.#fd = openSync(path, 'w', CREATE_MODE);
    } catch (error) {
      throw new Error(`Cannot record to "${path}": ${systemErrorText(error)}`, { cause: error });
    }
  }

  get report(): { path: string; bytes: number; error: string | null } {
    return { path: this.path, bytes: this.#bytes, error: this.#error };
  }

  /** Another stream begins. */
  begin(): void {
    this.#streams++;
    if (this.#streams === 1 || this.#error !== null) return;
    this.#attempt(() => {
      this.#close();
      this.#fd = openSync(`${this.path}.${this.#streams}`, 'w', CREATE_MODE);
    });
  }

  /** These bytes have passed. */
  write(bytes: Uint8Array): void {
    const fd = this.#fd;
    if (fd === undefined) return;
    this.#attempt(() => {
      for (let position = 0; position < bytes.length; ) {
        const count = writeSync(fd, bytes, position, bytes.length - position);
        position += count;
        this.#bytes += count;
      }
    });
  }

  /** Makes the file safe. May be called twice. */
  close(): void {
    this.#attempt(() => this.#close());
  }

  #close(): void {
    const fd = this.#fd;
    if (fd === undefined) return;
    this.#fd = undefined;
    try {
      if (fstatSync(fd).isFile()) fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
  }

  #attempt(action: () => void): void {
    try {
      action();
    } catch (error) {
      this.#error = (error as Error).message;
      this.#onError(`recording to "${this.path}" ended, the migration goes on: ${this.#error}`);
      const fd = this.#fd;
      this.#fd = undefined;
      if (fd !== undefined) closeSync(fd);
    }
  }
}
