/**
 * The machine protocol (QMP) on one connection: JSON in, JSON out, one message a line.
 *
 *   greeting ─▶ qmp_capabilities ─▶ commands, each answered in order; events in between
 *
 * See QEMU docs/interop/qmp-spec.rst. A client that enables `oob` may say `exec-oob` for a few commands: they are run as they
 * come, and answered before those that wait.
 */
import { type JsonItem, JsonReader } from '../qemu/json-reader.ts';
import type { Command, MonitorContext } from './command.ts';
import { versionInfo } from './commands/introspection.ts';
import { describeError, QmpError } from './errors.ts';
import type { QmpEvent } from './qmp-events.ts';
import {
  createContext,
  type MonitorHost,
  type MonitorSession,
  type MonitorStreams,
  tolerateErrors,
  writeText,
} from './session.ts';

/** Events that a client may leave unread before it is cut off. */
export const MAX_UNREAD_BYTES = 4 << 20;

interface Request {
  readonly name: string;
  readonly input: unknown;
  /** To be run out of band. */
  readonly isUrgent: boolean;
}

/** Requests that may wait for their turn; more are not read. */
export const MAX_WAITING_REQUESTS = 8;

export class QmpSession implements MonitorSession {
  readonly ended: Promise<void>;
  readonly #streams: MonitorStreams;
  readonly #context: MonitorContext;
  readonly #quitIfAsked: () => void;
  #isNegotiated = false;
  #isOobEnabled = false;
  /** The end of the last request that waits for its turn. */
  #busy: Promise<void> = Promise.resolve();
  #waitingCount = 0;

  constructor(host: MonitorHost, streams: MonitorStreams, commands?: readonly Command[]) {
    const { context, quitIfAsked } = createContext(host, commands);
    this.#context = context;
    this.#quitIfAsked = quitIfAsked;
    this.#streams = streams;
    tolerateErrors(streams);
    this.ended = this.#serve();
  }

  /** Sends an event, unless the client has not negotiated yet. */
  sendEvent(event: QmpEvent): void {
    const { output } = this.#streams;
    if (!this.#isNegotiated || output.destroyed) return;
    if (output.writableLength > MAX_UNREAD_BYTES) output.destroy();
    else void this.#send(event);
  }

  close(): void {
    this.#streams.input.destroy();
  }

  async #serve(): Promise<void> {
    const { input } = this.#streams;
    const reader = new JsonReader();
    await this.#send({ QMP: { version: versionInfo(this.#context.version), capabilities: ['oob'] } });
    try {
      for await (const chunk of input.iterator({ destroyOnReturn: false })) {
        for (const item of reader.push(chunk as Uint8Array)) {
          if (this.#isOobEnabled && isUrgent(item)) await this.#answer(item);
          else await this.#queue(item);
        }
      }
    } catch {
      // The connection broke: for the machine that is the end of this client and nothing more.
    }
    await this.#busy;
  }

  /** Runs a request when it is its turn. @returns when the next may be read: at once where an urgent one may come */
  async #queue(item: JsonItem): Promise<void> {
    this.#waitingCount++;
    this.#busy = this.#busy.then(async () => {
      await this.#answer(item);
      this.#waitingCount--;
      this.#quitIfAsked();
    });
    if (!this.#isOobEnabled || this.#waitingCount >= MAX_WAITING_REQUESTS) await this.#busy;
  }

  async #answer(item: JsonItem): Promise<void> {
    const id = 'value' in item && isObject(item.value) && 'id' in item.value ? { id: item.value['id'] } : {};
    try {
      if ('error' in item) throw new QmpError(item.error);
      await this.#send({ return: await this.#execute(parseRequest(item.value)), ...id });
    } catch (error) {
      await this.#send({ error: describeError(error), ...id });
    }
  }

  async #execute({ name, input, isUrgent }: Request): Promise<unknown> {
    if (!this.#isNegotiated) {
      if (name !== 'qmp_capabilities') {
        throw new QmpError("Expecting capabilities negotiation with 'qmp_capabilities'", 'CommandNotFound');
      }
      return this.#negotiate(input);
    }
    const command = this.#context.commands.find(({ qmp }) => qmp === name);
    if (command === undefined) {
      throw new QmpError(`The command ${name} has not been found`, 'CommandNotFound');
    }
    if (isUrgent && !this.#isOobEnabled) throw new QmpError("QMP input member 'exec-oob' is unexpected");
    if (isUrgent && !command.isUrgent) {
      throw new QmpError(`The command ${name} does not support OOB`);
    }
    return await command.execute(this.#context, input);
  }

  #negotiate(input: unknown): Record<string, never> {
    const enable = (input as { enable?: unknown }).enable ?? [];
    if (!Array.isArray(enable)) throw new QmpError("Invalid parameter type for 'enable', expected: array");
    const unknown = enable.find((capability) => capability !== 'oob');
    if (unknown !== undefined) {
      const name = typeof unknown === 'string' ? unknown : typeof unknown;
      throw new QmpError(`Capability '${name}' not available`);
    }
    this.#isOobEnabled = enable.length > 0;
    this.#isNegotiated = true;
    return {};
  }

  #send(message: object): Promise<void> {
    return writeText(this.#streams.output, `${JSON.stringify(message)}\n`);
  }
}

/** @throws {QmpError} if a message is no request */
function parseRequest(value: unknown): Request {
  if (!isObject(value)) throw new QmpError('QMP input must be a JSON object');
  for (const key of Object.keys(value)) {
    if (!['execute', 'exec-oob', 'arguments', 'id'].includes(key)) {
      throw new QmpError(`QMP input member '${key}' is unexpected`);
    }
  }
  const isUrgent = 'exec-oob' in value;
  const verb = isUrgent ? 'exec-oob' : 'execute';
  const name = value[verb];
  if (isUrgent && 'execute' in value) {
    throw new QmpError("QMP input members 'execute' and 'exec-oob' cannot both be there");
  }
  if (name === undefined) throw new QmpError("QMP input lacks member 'execute'");
  if (typeof name !== 'string') throw new QmpError(`QMP input member '${verb}' must be a string`);
  const input = value['arguments'] ?? {};
  if (!isObject(input)) throw new QmpError("QMP input member 'arguments' must be an object");
  return { name, input, isUrgent };
}

function isUrgent(item: JsonItem): boolean {
  return 'value' in item && isObject(item.value) && 'exec-oob' in item.value;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
