/**
 * A QMP client for tests: commands as promises, events kept in the order in which they came.
 */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { inTime, until } from './until.ts';

export interface QmpMessage {
  readonly event: string;
  readonly data?: Readonly<Record<string, unknown>>;
}

/** What the server answered instead of a result. */
export class QmpFailure extends Error {
  override readonly name = 'QmpFailure';
}

type Reply = { readonly return: unknown } | { readonly error: { readonly desc: string } };

export class QmpClient {
  /** All events so far. */
  readonly events: QmpMessage[] = [];
  readonly #socket: Socket;
  readonly #waiting: { resolve(value: unknown): void; reject(error: Error): void }[] = [];
  #isOpen = true;

  /** Connects as soon as the server is there, and negotiates. @param whyNot says why it cannot be there any more */
  static async connect(path: string, whyNot: () => string | undefined): Promise<QmpClient> {
    const socket = await until(`the QMP socket ${path}`, () => {
      const why = whyNot();
      if (why !== undefined) throw new Error(`There is no QMP socket ${path}: ${why}`);
      return tryConnect(path);
    });
    const client = new QmpClient(socket);
    await client.execute('qmp_capabilities');
    return client;
  }

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.once('close', () => {
      this.#isOpen = false;
      for (const { reject } of this.#waiting) reject(new Error('The QMP connection was closed'));
    });
    createInterface({ input: socket }).on('line', (line) => this.#heed(JSON.parse(line)));
  }

  /**
   * @returns what the server returned
   * @throws {QmpFailure} with the server's text
   */
  execute<Value = unknown>(command: string, input: object = {}): Promise<Value> {
    const answer = new Promise<unknown>((resolve, reject) => {
      if (!this.#isOpen) reject(new Error(`"${command}" was asked for on a closed QMP connection`));
      this.#waiting.push({ resolve, reject });
    });
    this.#socket.write(JSON.stringify({ execute: command, arguments: input }));
    return inTime(`the answer to "${command}"`, answer) as Promise<Value>;
  }

  /** Sends a command whose answer may never come. */
  post(command: string, input: object = {}): void {
    this.execute(command, input).catch(() => {});
  }

  /** The statuses of all MIGRATION events so far. */
  get migrationStatuses(): string[] {
    return this.events
      .filter(({ event }) => event === 'MIGRATION')
      .map(({ data }) => String(data?.['status']));
  }

  /** The events so far, short: `setup`, `active`, `PASS 1`, `STOP`. */
  get eventNames(): string[] {
    return this.events.map(({ event, data }) => {
      if (event === 'MIGRATION') return String(data?.['status']);
      return event === 'MIGRATION_PASS' ? `PASS ${data?.['pass']}` : event;
    });
  }

  close(): void {
    this.#socket.destroy();
  }

  #heed(message: QmpMessage | Reply | { readonly QMP: object }): void {
    if ('event' in message) this.events.push(message);
    else if ('return' in message) this.#waiting.shift()?.resolve(message.return);
    else if ('error' in message) this.#waiting.shift()?.reject(new QmpFailure(message.error.desc));
  }
}

async function tryConnect(path: string): Promise<Socket | undefined> {
  const socket = connect(path);
  socket.on('error', () => {});
  try {
    await once(socket, 'connect');
    return socket;
  } catch {
    socket.destroy();
    return undefined;
  }
}
