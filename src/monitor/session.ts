/**
 * What the two kinds of monitor connection share: who they serve, where they read and write, and how they end.
 */
import type { Readable, Writable } from 'node:stream';
import type { Vm } from '../vm/vm.ts';
import type { Command, MonitorContext } from './command.ts';
import { COMMANDS } from './commands.ts';

/** The program around the monitors. */
export interface MonitorHost {
  readonly vm: Vm;
  /** Version of this program. */
  readonly version: string;
  /** A client asked to end the program; its reply is out already. */
  quit(): void;
  /** Ctrl-C at a terminal, which then sends no signal by itself. */
  interrupt(): void;
}

export interface MonitorStreams {
  readonly input: Readable;
  readonly output: Writable;
}

/** One connected client. */
export interface MonitorSession {
  /** Resolves when the client's input has ended, and all its commands are done. Never rejects. */
  readonly ended: Promise<void>;
  /** Ceases to read and to write. May be called twice. */
  close(): void;
}

/** A context of its own for a connection: `quit` waits for `quitIfAsked`, so that the reply goes out before. */
export function createContext(
  host: MonitorHost,
  commands: readonly Command[] = COMMANDS,
): { context: MonitorContext; quitIfAsked(): void } {
  let isQuitAsked = false;
  return {
    context: {
      vm: host.vm,
      version: host.version,
      commands,
      quit() {
        isQuitAsked = true;
      },
    },
    quitIfAsked() {
      if (isQuitAsked) host.quit();
      isQuitAsked = false;
    },
  };
}

/** A broken connection ends its session and nothing else; reading on is how the session learns of it. */
export function tolerateErrors({ input, output }: MonitorStreams): void {
  input.on('error', () => {});
  output.on('error', () => {});
}

/** Writes and waits until the text is taken over, so that a client that does not read stops being served. */
export function writeText(output: Writable, text: string): Promise<void> {
  return new Promise((resolve) => {
    // An error means that the client has gone: the end of its input says so too.
    if (output.destroyed || output.writableEnded) resolve();
    else output.write(text, () => resolve());
  });
}
