/**
 * The human monitor (HMP) on one connection: a line in, text out, a prompt.
 *
 * Lines are run one after the other, also those typed while one is busy; those that can look at what it does, or end it, wait
 * a second for it at most. A terminal gets echo, editing, history and
 * completion; other input is read as it comes, and its end ends only the connection.
 */

import { createInterface, type Interface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ReadStream } from 'node:tty';
import type { Command, MonitorContext } from './command.ts';
import { completeLine } from './completion.ts';
import { runHumanLine } from './human-line.ts';
import { LineReader, MAX_LINE_BYTES } from './line-reader.ts';
import {
  createContext,
  type MonitorHost,
  type MonitorSession,
  type MonitorStreams,
  tolerateErrors,
  writeText,
} from './session.ts';

export const PROMPT = '(postcopy) ';
const HISTORY_LINES = 1000;
/** How long these wait for a busy command, such as `migrate` without -d, before they go ahead of it. */
const PATIENCE_MS = 1000;
const OVERTAKING = /^\s*(migrate_cancel|migrate_start_postcopy|migrate_pause|migrate_recover|info)\b/;
/** Lines that may wait; more are not read. */
const MAX_WAITING_LINES = 256;

export class HumanSession implements MonitorSession {
  readonly ended: Promise<void>;
  readonly #host: MonitorHost;
  readonly #streams: MonitorStreams;
  readonly #context: MonitorContext;
  readonly #quitIfAsked: () => void;
  #terminal: Interface | undefined;
  #isClosed = false;
  /** The end of the last line that waits for its turn. */
  #busy: Promise<void> = Promise.resolve();
  #waitingLines = 0;

  constructor(host: MonitorHost, streams: MonitorStreams, commands?: readonly Command[]) {
    const { context, quitIfAsked } = createContext(host, commands);
    this.#host = host;
    this.#context = context;
    this.#quitIfAsked = quitIfAsked;
    this.#streams = streams;
    tolerateErrors(streams);
    const isTerminal = (streams.input as Partial<ReadStream>).isTTY === true;
    this.ended = isTerminal ? this.#serveTerminal() : this.#servePlain();
  }

  close(): void {
    this.#isClosed = true;
    this.#terminal?.close();
    this.#streams.input.destroy();
  }

  async #servePlain(): Promise<void> {
    const { input, output } = this.#streams;
    const reader = new LineReader();
    await writeText(output, `${this.#banner()}${PROMPT}`);
    try {
      for await (const chunk of input.iterator({ destroyOnReturn: false })) {
        for (const line of reader.push(chunk as Uint8Array)) {
          void this.#take(line, PROMPT);
          if (this.#waitingLines >= MAX_WAITING_LINES) await this.#busy;
        }
      }
      const lastLine = reader.end();
      if (lastLine !== undefined) void this.#take(lastLine, '');
      await this.#busy;
    } catch {
      // The connection broke: for the machine that is the end of this client and nothing more.
    }
  }

  async #serveTerminal(): Promise<void> {
    await writeText(this.#streams.output, this.#banner());
    let history: string[] = [];
    while (!this.#isClosed) {
      history = await this.#serveTerminalOnce(history);
      if (!this.#isClosed) await writeText(this.#streams.output, '\nType "quit" to end the machine.\n');
    }
  }

  /** Serves until Ctrl-D closes the line editor. @returns the history, for the next one */
  async #serveTerminalOnce(history: string[]): Promise<string[]> {
    const terminal = createInterface({
      ...this.#streams,
      terminal: true,
      prompt: PROMPT,
      history,
      historySize: HISTORY_LINES,
      removeHistoryDuplicates: true,
      completer: (line: string) => completeLine(this.#context, line),
    });
    this.#terminal = terminal;
    let kept = history;
    terminal.on('history', (lines) => {
      kept = lines;
    });
    terminal.on('SIGINT', () => this.#host.interrupt());
    terminal.on('line', async (line) => {
      await this.#take(line, '');
      if (this.#terminal === terminal && !this.#isClosed) terminal.prompt();
    });
    terminal.prompt();
    await new Promise<void>((resolve) => terminal.once('close', resolve));
    await this.#busy;
    return kept;
  }

  /** Runs a line when it is its turn, and writes what it says. Never rejects. */
  #take(line: string | null, prompt: string): Promise<void> {
    const mayOvertake = line !== null && OVERTAKING.test(line);
    const turn = mayOvertake
      ? Promise.race([this.#busy, sleep(PATIENCE_MS, undefined, { ref: false })])
      : this.#busy;
    this.#waitingLines++;
    const done = turn.then(async () => {
      try {
        await writeText(this.#streams.output, `${await this.#run(line)}${prompt}`);
      } catch {
        // The connection broke.
      }
      this.#waitingLines--;
      this.#quitIfAsked();
    });
    const before = this.#busy;
    this.#busy = done.then(() => before);
    return done;
  }

  async #run(line: string | null): Promise<string> {
    if (line === null) return `Line is longer than ${MAX_LINE_BYTES} bytes\n`;
    const text = await runHumanLine(this.#context, line);
    return text === '' ? '' : `${text}\n`;
  }

  #banner(): string {
    return `postcopy ${this.#context.version} monitor - type 'help' for more information\n`;
  }
}
