/**
 * A person at the human monitor, for tests: a line in, the text up to the next prompt out.
 */
import type { Readable, Writable } from 'node:stream';
import { PROMPT } from '../../src/monitor/human.ts';
import { until } from './until.ts';

export class HmpClient {
  readonly #input: Writable;
  #text = '';

  /** @param streams standard input and output of the program */
  static async connect(streams: { stdin: Writable | null; stdout: Readable | null }): Promise<HmpClient> {
    if (streams.stdin === null || streams.stdout === null)
      throw new Error('The program has no standard streams');
    const client = new HmpClient(streams.stdin, streams.stdout);
    await client.#untilPrompt('the first prompt');
    return client;
  }

  private constructor(input: Writable, output: Readable) {
    this.#input = input;
    input.on('error', () => {});
    output.setEncoding('utf8').on('data', (text: string) => {
      this.#text += text;
    });
  }

  /** @returns what the monitor answered, without the line break at its end */
  async run(line: string): Promise<string> {
    this.#input.write(`${line}\n`);
    return await this.#untilPrompt(`the answer to "${line}"`);
  }

  /** Types a line after which no prompt comes. */
  post(line: string): void {
    this.#input.write(`${line}\n`);
  }

  async #untilPrompt(what: string): Promise<string> {
    await until(
      what,
      () => this.#text.endsWith(PROMPT),
      () => `there is: ${this.#text}`,
    );
    const answer = this.#text.slice(0, -PROMPT.length).trimEnd();
    this.#text = '';
    return answer;
  }
}
