/**
 * A QMP client for tests: it waits until the server is there, keeps all events, and has a deadline for every answer.
 */
import { QmpClient as Client, type QmpEvent } from '../../src/qemu/qmp-client.ts';
import { inTime, until } from './until.ts';

export class QmpClient {
  /** All events so far, in the order in which they came. */
  readonly events: QmpEvent[];
  readonly #client: Client;

  /** Connects as soon as the server is there, and negotiates. @param whyNot says why it cannot be there any more */
  static connect(path: string, whyNot: () => string | undefined): Promise<QmpClient> {
    return until(`the QMP socket ${path}`, async () => {
      const why = whyNot();
      if (why !== undefined) throw new Error(`There is no QMP socket ${path}: ${why}`);
      const events: QmpEvent[] = [];
      try {
        return new QmpClient(await Client.connect(path, { onEvent: (event) => events.push(event) }), events);
      } catch {
        return undefined;
      }
    });
  }

  private constructor(client: Client, events: QmpEvent[]) {
    this.#client = client;
    this.events = events;
  }

  /**
   * @returns what the server returned
   * @throws {QmpCommandError} with the server's text
   */
  execute<Value = unknown>(command: string, input: Readonly<Record<string, unknown>> = {}): Promise<Value> {
    return inTime(`the answer to "${command}"`, this.#client.execute<Value>(command, input));
  }

  /** Sends a command whose answer may never come. */
  post(command: string, input: Readonly<Record<string, unknown>> = {}): void {
    this.#client.execute(command, input).catch(() => {});
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
    this.#client.close();
  }
}
