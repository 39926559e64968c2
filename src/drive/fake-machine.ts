/**
 * A machine that a test plays: a QMP server whose migration state the test moves, with every command it was given.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { MigrateInfo } from './watched-machine.ts';

type Arguments = Readonly<Record<string, unknown>>;

/** What a command does; a text that is thrown is the refusal. */
export type FakeCommand = (args: Arguments) => unknown;

const GREETING = {
  QMP: {
    version: { qemu: { major: 7, minor: 2, micro: 22 }, package: 'fake' },
    capabilities: ['oob'],
  },
};

export class FakeMachine {
  readonly path: string;
  info: MigrateInfo = {};
  runState = 'running';
  capabilities: Record<string, boolean> = { events: false, 'return-path': false, 'postcopy-ram': false };
  parameters: Record<string, unknown> = {
    'max-bandwidth': 100,
    'downtime-limit': 300,
    'tls-creds': '',
    'x-flag': false,
  };
  /** Commands other than questions, as `name {"arguments":…}`; urgent ones with a `!` in front. */
  readonly calls: string[] = [];
  /** The monitor answers nothing: its machine hangs. Urgent commands are answered still. */
  hangs = false;
  /** Commands that were never answered. */
  readonly unanswered: string[] = [];
  readonly commands: Record<string, FakeCommand> = {
    'query-migrate': () => this.info,
    'query-status': () => ({ status: this.runState }),
    'query-migrate-capabilities': () =>
      Object.entries(this.capabilities).map(([capability, state]) => ({ capability, state })),
    'query-migrate-parameters': () => this.parameters,
    'query-commands': () => Object.keys(this.commands).map((name) => ({ name })),
    'qom-get': () => 'pc-i440fx-7.2-machine',
    'migrate-set-capabilities': ({ capabilities }) => {
      for (const { capability, state } of capabilities as { capability: string; state: boolean }[]) {
        this.capabilities[capability] = state;
      }
    },
    'migrate-set-parameters': (values) => {
      Object.assign(this.parameters, values);
    },
  };
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  static async start(t: TestContext): Promise<FakeMachine> {
    const folder = mkdtempSync(join(tmpdir(), 'pc-'));
    const machine = new FakeMachine(join(folder, 'qmp'));
    await new Promise<void>((resolve) => machine.#server.listen(machine.path, resolve));
    t.after(() => {
      machine.end();
      rmSync(folder, { recursive: true });
    });
    return machine;
  }

  private constructor(path: string) {
    this.path = path;
    this.#server = createServer((socket) => this.#serve(socket));
  }

  /** Enters a migration state, and tells. */
  enter(status: string, runState = this.runState): void {
    const wasRunning = this.runState === 'running';
    this.info = { ...this.info, status };
    this.runState = runState;
    this.emit('MIGRATION', { status });
    if (!wasRunning && runState === 'running') this.emit('RESUME');
  }

  emit(event: string, data?: Arguments): void {
    for (const socket of this.#sockets) socket.write(`${JSON.stringify({ event, data })}\n`);
  }

  /** Breaks the connections; the machine goes on and takes new ones. */
  disconnect(): void {
    for (const socket of this.#sockets) socket.destroy();
    this.#sockets.clear();
  }

  /** The process ends. */
  end(): void {
    this.#server.close();
    this.disconnect();
  }

  #serve(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on('error', () => {});
    socket.write(`${JSON.stringify(GREETING)}\n`);
    socket.on('data', (chunk) => {
      for (const line of chunk.toString().trim().split('\n')) this.#answer(socket, JSON.parse(line));
    });
  }

  #answer(socket: Socket, request: Arguments): void {
    const isUrgent = 'exec-oob' in request;
    const name = String(request['exec-oob'] ?? request['execute']);
    const args = (request['arguments'] ?? {}) as Arguments;
    const { id } = request;
    if (this.hangs && !isUrgent) {
      this.unanswered.push(name);
      return;
    }
    const reply = (message: object) => socket.write(`${JSON.stringify({ ...message, id })}\n`);
    if (name === 'qmp_capabilities') {
      reply({ return: {} });
      return;
    }
    if (!name.startsWith('query-') && name !== 'qom-get') {
      this.calls.push(`${isUrgent ? '!' : ''}${name} ${JSON.stringify(args)}`);
    }
    const command = this.commands[name];
    if (command === undefined) {
      reply({ error: { class: 'CommandNotFound', desc: `The command ${name} has not been found` } });
      return;
    }
    try {
      reply({ return: command(args) ?? {} });
    } catch (refusal) {
      reply({ error: { class: 'GenericError', desc: String(refusal) } });
    }
  }
}
