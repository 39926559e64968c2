/**
 * `postcopy inspect`: what a migration stream or a snapshot holds, and the first illegal byte of a damaged one.
 */
import { constants } from 'node:os';
import type { Command } from 'commander';
import { blocksText, devicesText, headText, itemText, reportText } from '../inspect/report-text.ts';
import type { StreamReport } from '../inspect/stream-report.ts';
import { UriError } from '../transport/parse-uri.ts';
import { endProcess, printMessage } from './end-process.ts';
import { inspectStream } from './inspect/inspect-stream.ts';
import { openStreamInput, type StreamInput } from './inspect/stream-input.ts';
import { UsageError } from './usage-error.ts';

const EXAMPLES = `
A URI waits for a source as -incoming does, and reads one stream without ever answering. A source that goes on to
postcopy, or that waits for an answer at the end, must not be pointed here: use "postcopy relay --record" between the two.

Exit code 0 if the stream is whole, 1 if it is damaged or cut off. What came before the damage is shown all the same.

Examples:
  postcopy inspect web1.snap
  postcopy inspect --json vm.stream | jq '.blocks[].pages'
  postcopy inspect -- - < vm.stream
  postcopy inspect "exec:zstd -dc vm.stream.zst"
  postcopy inspect --follow recorded.stream        while "postcopy relay --record recorded.stream ..." runs
`;

interface InspectOptions {
  readonly json?: true;
  readonly follow?: true;
}

/** Adds the command to the program. */
export function addInspectCommand(program: Command): void {
  program
    .command('inspect')
    .description('say what a migration stream or a snapshot holds, and where it is damaged')
    .argument('<file|uri>', 'a file, - for standard input, or tcp:, unix:, exec:, fd: to wait for a source')
    .option('--json', 'as JSON')
    .option('--follow', 'the file still grows: read until the stream ends')
    .addHelpText('after', EXAMPLES)
    .action(async (target: string, options: InspectOptions) => endProcess(await inspect(target, options)));
}

async function inspect(target: string, { json, follow }: InspectOptions): Promise<number> {
  const stop = new AbortController();
  const onSignal = () => stop.abort();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, onSignal);
  const input = await openInput(target, stop.signal);
  try {
    const isLive = follow === true && json === undefined;
    const inspector = await inspectStream(input, {
      isFollowing: follow === true,
      signal: stop.signal,
      ...(isLive && { onItem: (item) => process.stdout.write(`${itemText(item)}\n`) }),
    });
    const report = inspector.report();
    process.stdout.write(render(target, report, { isJson: json === true, isLive }));
    if (report.error !== null) {
      if (json === undefined) printMessage(errorText(target, report.error));
      return 1;
    }
    return stop.signal.aborted ? 128 + constants.signals.SIGINT : 0;
  } finally {
    input.close();
  }
}

async function openInput(target: string, signal: AbortSignal): Promise<StreamInput> {
  try {
    return await openStreamInput(
      target,
      (address) => printMessage(`waiting for a source at ${address}; it gets no answers here`),
      signal,
    );
  } catch (error) {
    throw error instanceof UriError ? new UsageError(error.message) : error;
  }
}

function render(name: string, report: StreamReport, how: { isJson: boolean; isLive: boolean }): string {
  if (how.isJson) return `${JSON.stringify({ name, ...report }, null, 2)}\n`;
  if (!how.isLive) return reportText(name, report);
  return `\n${[headText(name, report), blocksText(report), devicesText(report)].filter((text) => text !== '').join('\n')}`;
}

function errorText(name: string, { code, message, at, reading }: NonNullable<StreamReport['error']>): string {
  const where = `0x${at.toString(16)} (${at})`;
  const what = message.replace(/ \(stream byte \d+\)$/, '');
  if (code === 'BAD_MAGIC') return `${name} is no migration stream: byte ${where}: ${what}`;
  return code === 'TRUNCATED'
    ? `${name} ends too early, at ${where}, in ${reading}: ${what}`
    : `${name} is damaged: the first illegal byte is ${where}, in ${reading}: ${what}`;
}
