/** `postcopy relay` as a process of a test. */
import type { TestContext } from 'node:test';
import type { RelayReport } from '../../src/relay/relay-report.ts';
import { inTime, until } from './until.ts';
import { type Exit, spawnProgram } from './vm-process.ts';

export class RelayProcess {
  stdout = '';
  stderr = '';
  readonly #child: ReturnType<typeof spawnProgram>;

  /** It waits for a source when this resolves. @param listenUri `tcp:127.0.0.1:0` by default */
  static async start(
    t: TestContext,
    connectUri: string,
    { listenUri = 'tcp:127.0.0.1:0', args = [] }: { listenUri?: string; args?: readonly string[] } = {},
  ): Promise<RelayProcess> {
    const relay = new RelayProcess(t, ['relay', '--json', ...args, listenUri, connectUri]);
    await relay.untilSaid(/waiting for a source at /);
    return relay;
  }

  private constructor(t: TestContext, args: readonly string[]) {
    this.#child = spawnProgram(t, args);
    this.#child.stdout?.on('data', (bytes) => (this.stdout += bytes));
    this.#child.stderr?.on('data', (bytes) => (this.stderr += bytes));
  }

  /** Where it waits for a source. */
  get address(): string {
    const [, address] = /waiting for a source at (\S+)/.exec(this.stderr) ?? [];
    if (address === undefined) throw new Error(`The relay does not listen: ${this.stderr}`);
    return address;
  }

  get pid(): number {
    return this.#child.pid as number;
  }

  async untilSaid(text: RegExp): Promise<void> {
    await until(
      `the relay to say ${text}`,
      () => text.test(this.stderr),
      () => this.stderr,
    );
  }

  /** Waits until it has ended. */
  async untilExit(): Promise<Exit> {
    return await inTime('the end of the relay', this.#child.exit, () => this.stderr);
  }

  /** What it has seen, after its end. */
  get report(): RelayReport {
    return JSON.parse(this.stdout) as RelayReport;
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }
}
