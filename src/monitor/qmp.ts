/**
 * The machine protocol (QMP) on one connection: JSON in, JSON out, one message a line.
 *
 *   greeting ─▶ qmp_capabilities ─▶ commands, each answered in order; events in between
 *
 * See QEMU docs/interop/qmp-spec.rst. Out-of-band execution is not offered.
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
}

export class QmpSession implements MonitorSession {
  readonly ended: Promise<void>;
  readonly #streams: MonitorStreams;
  readonly #context: MonitorContext;
  readonly #quitIfAsked: () => void;
  #isNegotiated = false;

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
    await this.#send({ QMP: { version: versionInfo(this.#context.version), capabilities: [] } });
    try {
      for await (const chunk of input.iterator({ destroyOnReturn: false })) {
        for (const item of reader.push(chunk as Uint8Array)) {
          await this.#answer(item);
          this.#quitIfAsked();
        }
      }
    } catch {
      // The connection broke: for the machine that is the end of this client and nothing more.
    }
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

  async #execute({ name, input }: Request): Promise<unknown> {
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
    return await command.execute(this.#context, input);
  }

  #negotiate(input: unknown): Record<string, never> {
    const enable = (input as { enable?: unknown }).enable ?? [];
    if (!Array.isArray(enable)) throw new QmpError("Invalid parameter type for 'enable', expected: array");
    if (enable.length > 0) throw new QmpError(`Capability '${enable[0]}' not available`);
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
    if (!['execute', 'arguments', 'id'].includes(key)) {
      throw new QmpError(`QMP input member '${key}' is unexpected`);
    }
  }
  const name = value['execute'];
  if (name === undefined) throw new QmpError("QMP input lacks member 'execute'");
  if (typeof name !== 'string') throw new QmpError("QMP input member 'execute' must be a string");
  const input = value['arguments'] ?? {};
  if (!isObject(input)) throw new QmpError("QMP input member 'arguments' must be an object");
  return { name, input };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
