/**
 * A client of the QEMU Machine Protocol, for our own machines and for QEMU: commands in, answers and events out.
 *
 *   greeting ─▶ qmp_capabilities (with `oob` where it is offered) ─▶ commands; answers and events, in any layout of JSON
 *
 * Each command has a time limit, since a monitor may hang while its connection stays: a process that is stopped, or one
 * whose main thread waits for a page of its guest. A client that is closed stays closed: whoever wants another connection
 * makes another client. See QEMU docs/interop/qmp-spec.rst.
 */
import { EventEmitter } from 'node:events';
import type { Socket } from 'node:net';
import { JsonReader } from './json-reader.ts';
import { formatQmpAddress, parseQmpAddress, type QmpAddress } from './qmp-address.ts';
import { connectSocket, type QmpGreeting, readGreeting } from './qmp-connect.ts';
import { QmpCommandError, QmpConnectionError } from './qmp-errors.ts';

export { QmpCommandError, QmpConnectionError, type QmpConnectionFailure } from './qmp-errors.ts';

export const GREETING_TIMEOUT_MS = 5000;
export const COMMAND_TIMEOUT_MS = 30_000;

/** Longest message taken: some hundred times the longest that QEMU has. */
const MAX_MESSAGE_BYTES = 16 << 20;
/** Events that an iteration may leave unread before it fails. */
export const MAX_UNREAD_EVENTS = 10_000;

export interface QmpEvent {
  readonly event: string;
  readonly data?: Readonly<Record<string, unknown>>;
  readonly timestamp?: { readonly seconds: number; readonly microseconds: number };
}

export interface QmpClientOptions {
  /** Gets every event, from the first on. */
  readonly onEvent?: (event: QmpEvent) => void;
  /** For the connection, and again for the greeting; 5 s unless given. */
  readonly greetingTimeoutMs?: number;
  /** For each command that has none of its own; 30 s unless given, 0 is none. */
  readonly commandTimeoutMs?: number;
}

export interface ExecuteOptions {
  /** 0 is none. The answer is thrown away if it comes later. */
  readonly timeoutMs?: number;
  /** Overtake other commands where the monitor can do that (`exec-oob`); QEMU allows it for a few commands only. */
  readonly isUrgent?: boolean;
}

interface Waiting {
  readonly command: string;
  readonly timer: NodeJS.Timeout | undefined;
  resolve(value: unknown): void;
  reject(error: Error): void;
}

export class QmpClient extends EventEmitter<{ event: [event: QmpEvent]; close: [] }> {
  readonly address: QmpAddress;
  readonly greeting: QmpGreeting;
  readonly #socket: Socket;
  readonly #reader: JsonReader;
  readonly #commandTimeoutMs: number;
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 1;
  #isClosed = false;

  /**
   * Connects to a monitor and gets through the greeting.
   *
   * @param address `unix:PATH`, `tcp:HOST:PORT` or a path
   * @throws {RangeError} if that is no address; {QmpConnectionError} if nobody is there, it does not greet or is no QMP server
   */
  static async connect(address: string, options: QmpClientOptions = {}): Promise<QmpClient> {
    const timeoutMs = options.greetingTimeoutMs ?? GREETING_TIMEOUT_MS;
    const parsed = parseQmpAddress(address);
    const socket = await connectSocket(parsed, timeoutMs);
    try {
      const reader = new JsonReader(MAX_MESSAGE_BYTES);
      const greeting = await readGreeting(socket, reader, parsed, timeoutMs);
      const client = new QmpClient(socket, reader, parsed, greeting, options);
      await client.execute('qmp_capabilities', greeting.hasOob ? { enable: ['oob'] } : {});
      return client;
    } catch (error) {
      socket.destroy();
      throw error;
    }
  }

  private constructor(
    socket: Socket,
    reader: JsonReader,
    address: QmpAddress,
    greeting: QmpGreeting,
    { onEvent, commandTimeoutMs = COMMAND_TIMEOUT_MS }: QmpClientOptions,
  ) {
    super();
    this.#socket = socket;
    this.#reader = reader;
    this.address = address;
    this.greeting = greeting;
    this.#commandTimeoutMs = commandTimeoutMs;
    if (onEvent !== undefined) this.on('event', onEvent);
    socket.on('data', (chunk) => this.#read(chunk));
    socket.on('error', () => socket.destroy());
    socket.on('end', () => socket.destroy());
    socket.on('close', () => this.#end());
    if (socket.destroyed) this.#end();
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  /**
   * Runs a command.
   *
   * @throws {QmpCommandError} if the monitor refuses; {QmpConnectionError} `closed` if the connection ends before the
   *   answer, `no-answer` if the time is over
   */
  execute<Result = unknown>(
    command: string,
    args: Readonly<Record<string, unknown>> = {},
    { timeoutMs = this.#commandTimeoutMs, isUrgent = false }: ExecuteOptions = {},
  ): Promise<Result> {
    if (this.#isClosed) return Promise.reject(this.#closedError(command));
    const id = this.#nextId++;
    return new Promise<Result>((resolve, reject) => {
      const timer = timeoutMs === 0 ? undefined : setTimeout(() => this.#giveUp(id, timeoutMs), timeoutMs);
      this.#waiting.set(id, { command, timer, resolve: (value) => resolve(value as Result), reject });
      const verb = isUrgent && this.greeting.hasOob ? 'exec-oob' : 'execute';
      this.#socket.write(`${JSON.stringify({ [verb]: command, arguments: args, id })}\n`);
    });
  }

  /**
   * The next event that fits, from now on.
   *
   * @param wanted its name, or a test
   * @param timeoutMs 0 is none
   * @throws {QmpConnectionError} if the connection ends first, or the time is over
   */
  waitForEvent(wanted: string | ((event: QmpEvent) => boolean), timeoutMs = 0): Promise<QmpEvent> {
    const fits = typeof wanted === 'string' ? ({ event }: QmpEvent) => event === wanted : wanted;
    const what = typeof wanted === 'string' ? `the event ${wanted}` : 'an event';
    if (this.#isClosed) return Promise.reject(this.#closedError(what));
    return new Promise((resolve, reject) => {
      const settle = (outcome: QmpEvent | Error) => {
        clearTimeout(timer);
        this.off('event', onEvent);
        this.off('close', onClose);
        if (outcome instanceof Error) reject(outcome);
        else resolve(outcome);
      };
      const onEvent = (event: QmpEvent) => {
        if (fits(event)) settle(event);
      };
      const onClose = () => settle(this.#closedError(what));
      const timer =
        timeoutMs === 0 ? undefined : setTimeout(() => settle(this.#lateError(what, timeoutMs)), timeoutMs);
      this.on('event', onEvent);
      this.on('close', onClose);
    });
  }

  /**
   * All events from now on, until the connection ends.
   *
   * @throws {RangeError} if more than `MAX_UNREAD_EVENTS` have been left unread
   */
  events(): AsyncIterableIterator<QmpEvent> {
    const unread: QmpEvent[] = [];
    let hasOverflown = false;
    let wake: () => void = () => {};
    const onEvent = (event: QmpEvent) => {
      if (unread.length < MAX_UNREAD_EVENTS) unread.push(event);
      else hasOverflown = true;
      wake();
    };
    const onClose = () => wake();
    this.on('event', onEvent);
    this.on('close', onClose);
    const stop = () => {
      this.off('event', onEvent);
      this.off('close', onClose);
    };
    const client = this;
    const iterate = async function* () {
      try {
        for (;;) {
          const event = unread.shift();
          if (event !== undefined) yield event;
          else if (hasOverflown)
            throw new RangeError(`More than ${MAX_UNREAD_EVENTS} events were left unread`);
          else if (client.#isClosed) return;
          else {
            await new Promise<void>((resolve) => {
              wake = resolve;
            });
          }
        }
      } finally {
        stop();
      }
    };
    return iterate();
  }

  /** May be called twice. */
  close(): void {
    this.#socket.destroy();
  }

  #read(chunk: Uint8Array): void {
    for (const item of this.#reader.push(chunk)) {
      if ('error' in item || typeof item.value !== 'object' || item.value === null) {
        this.#socket.destroy();
        return;
      }
      this.#take(item.value as Readonly<Record<string, unknown>>);
    }
  }

  #take(message: Readonly<Record<string, unknown>>): void {
    if (typeof message['event'] === 'string') {
      this.emit('event', message as unknown as QmpEvent);
      return;
    }
    const id = message['id'];
    const waiting = typeof id === 'number' ? this.#waiting.get(id) : undefined;
    if (waiting === undefined) return; // its time is over
    this.#waiting.delete(id as number);
    clearTimeout(waiting.timer);
    const error = message['error'] as { class?: unknown; desc?: unknown } | null | undefined;
    if (error === undefined) waiting.resolve(message['return']);
    else {
      // Whoever answers may have put anything there.
      const text = (value: unknown, otherwise: string) => (typeof value === 'string' ? value : otherwise);
      const errorClass = text(error?.class, 'GenericError');
      waiting.reject(new QmpCommandError(waiting.command, errorClass, text(error?.desc, 'no reason given')));
    }
  }

  #giveUp(id: number, timeoutMs: number): void {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    waiting?.reject(this.#lateError(waiting.command, timeoutMs));
  }

  #end(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const { command, timer, reject } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(this.#closedError(command));
    }
    this.#waiting.clear();
    this.emit('close');
  }

  #closedError(what: string): QmpConnectionError {
    const where = formatQmpAddress(this.address);
    return new QmpConnectionError('closed', `${what}: the monitor ${where} has closed its connection`);
  }

  #lateError(what: string, timeoutMs: number): QmpConnectionError {
    const where = formatQmpAddress(this.address);
    return new QmpConnectionError(
      'no-answer',
      `${what}: the monitor ${where} has not answered within ${timeoutMs / 1000} s`,
    );
  }
}
