/**
 * A client of the QEMU Machine Protocol, for our own machines and for QEMU: commands in, answers and events out.
 *
 * See QEMU docs/interop/qmp-spec.rst. One JSON object a line, which both QEMU and we keep to.
 */
import { EventEmitter } from 'node:events';
import { connect, type Socket } from 'node:net';
import { createInterface } from 'node:readline';

/** A monitor refused a command; the message is its own. */
export class QmpCommandError extends Error {
  override readonly name = 'QmpCommandError';
  readonly command: string;
  /** `GenericError`, `CommandNotFound`, … */
  readonly errorClass: string;

  constructor(command: string, errorClass: string, description: string) {
    super(description);
    this.command = command;
    this.errorClass = errorClass;
  }
}

export interface QmpEvent {
  readonly event: string;
  readonly data?: Readonly<Record<string, unknown>>;
}

interface Answer {
  readonly id?: number;
  readonly return?: unknown;
  readonly error?: { readonly class: string; readonly desc: string };
}

export class QmpClient extends EventEmitter<{ event: [event: QmpEvent]; close: [] }> {
  readonly #socket: Socket;
  readonly #waiting = new Map<
    number,
    { command: string; resolve(value: unknown): void; reject(error: Error): void }
  >();
  #nextId = 1;
  #isClosed = false;

  /**
   * Connects to a monitor's unix socket and gets through the greeting.
   *
   * @param onEvent gets every event, from the first on
   * @throws Node's connection error, or an Error if the peer closes before it has greeted
   */
  static async connect(path: string, onEvent: (event: QmpEvent) => void = () => {}): Promise<QmpClient> {
    const socket = connect(path);
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    const client = new QmpClient(socket);
    client.on('event', onEvent);
    await client.execute('qmp_capabilities');
    return client;
  }

  private constructor(socket: Socket) {
    super();
    this.#socket = socket;
    createInterface({ input: socket }).on('line', (line) => this.#take(line));
    socket.on('error', () => socket.destroy());
    socket.on('close', () => this.#end());
  }

  /** @throws {QmpCommandError} if the monitor refuses; an Error if the connection ends first */
  execute<Result = unknown>(command: string, args: Readonly<Record<string, unknown>> = {}): Promise<Result> {
    if (this.#isClosed) return Promise.reject(new Error(`${command}: the monitor's connection is closed`));
    const id = this.#nextId++;
    return new Promise<Result>((resolve, reject) => {
      this.#waiting.set(id, { command, resolve: (value) => resolve(value as Result), reject });
      this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    });
  }

  /** May be called twice. */
  close(): void {
    this.#socket.destroy();
  }

  #take(line: string): void {
    let message: Answer | QmpEvent;
    try {
      message = JSON.parse(line);
    } catch {
      this.#socket.destroy();
      return;
    }
    if ('event' in message) {
      this.emit('event', message);
      return;
    }
    const answer = message as Answer;
    const waiting = answer.id === undefined ? undefined : this.#waiting.get(answer.id);
    if (answer.id === undefined || waiting === undefined) return; // the greeting
    this.#waiting.delete(answer.id);
    if (answer.error === undefined) waiting.resolve(answer.return);
    else waiting.reject(new QmpCommandError(waiting.command, answer.error.class, answer.error.desc));
  }

  #end(): void {
    this.#isClosed = true;
    for (const { command, reject } of this.#waiting.values()) {
      reject(new Error(`${command}: the monitor closed its connection`));
    }
    this.#waiting.clear();
    this.emit('close');
  }
}
