/** `postcopy serve` as a process of a test. */
import type { TestContext } from 'node:test';
import type { SessionReport } from '../../src/restore/snapshot-server.ts';
import { inTime, until } from './until.ts';
import { type Exit, spawnProgram } from './vm-process.ts';

export class ServeProcess {
  stdout = '';
  stderr = '';
  readonly #child: ReturnType<typeof spawnProgram>;

  /** It listens when this resolves. @param uri `tcp:127.0.0.1:0` by default */
  static async start(
    t: TestContext,
    path: string,
    { uri = 'tcp:127.0.0.1:0', args = [] }: { uri?: string; args?: readonly string[] } = {},
  ): Promise<ServeProcess> {
    const server = new ServeProcess(t, ['serve', '--json', ...args, '--listen', uri, path]);
    await server.untilSaid(/serves at /);
    return server;
  }

  private constructor(t: TestContext, args: readonly string[]) {
    this.#child = spawnProgram(t, args);
    this.#child.stdout?.on('data', (bytes) => (this.stdout += bytes));
    this.#child.stderr?.on('data', (bytes) => (this.stderr += bytes));
  }

  get address(): string {
    const [, address] = /serves at (\S+)/.exec(this.stderr) ?? [];
    if (address === undefined) throw new Error(`The server does not listen: ${this.stderr}`);
    return address;
  }

  /** Reports of the sessions that have ended. */
  get sessions(): SessionReport[] {
    return this.stdout
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as SessionReport);
  }

  /** Waits until so many sessions have ended. */
  async untilSessions(count: number): Promise<SessionReport[]> {
    await until(
      `${count} sessions to end`,
      () => this.sessions.length >= count,
      () => this.stderr,
    );
    return this.sessions;
  }

  async untilSaid(text: RegExp): Promise<void> {
    await until(
      `the server to say ${text}`,
      () => text.test(this.stderr),
      () => this.stderr,
    );
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  async untilExit(): Promise<Exit> {
    return await inTime('the end of the server', this.#child.exit, () => this.stderr);
  }
}
