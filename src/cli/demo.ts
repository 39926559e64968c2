/**
 * `postcopy demo`: a live migration of a running guest between two processes, with a verdict.
 *
 * Both are ordinary `postcopy run` processes, driven over QMP as any program would drive them.
 */
import { type Command, InvalidArgumentError } from 'commander';
import { parseSize } from '../monitor/parse-quantity.ts';
import { formatDemoReport } from './demo/format-report.ts';
import { runDemo } from './demo/run-demo.ts';
import { endProcess } from './end-process.ts';
import { BUILT_IN_GUESTS, type BuiltInGuest } from './package-info.ts';

interface DemoOptions {
  readonly memory: number;
  readonly guest: BuiltInGuest;
  readonly bandwidth: number;
  readonly startTime: number;
  readonly json?: true;
}

/** Adds the command to the program. */
export function addDemoCommand(program: Command): void {
  const guest = (text: string): BuiltInGuest => {
    const name = BUILT_IN_GUESTS.find((known) => known === text);
    if (name === undefined)
      throw new InvalidArgumentError(`It must be one of: ${BUILT_IN_GUESTS.join(', ')}.`);
    return name;
  };
  program
    .command('demo')
    .description(
      'move a running guest to another process, over a link too slow for precopy, and prove it whole',
    )
    .option('-m, --memory <size>', 'memory of the guest; a bare number counts MiB', sizeInMib, 256 * 2 ** 20)
    .option('--guest <name>', `test guest: ${BUILT_IN_GUESTS.join(', ')}`, guest, 'counter')
    .option('--bandwidth <size>', 'bytes a second of the link', bandwidth, 32 * 2 ** 20)
    .option('--start-time <ms>', 'switch to postcopy after so much precopy', wholeNumber, 500)
    .option('--json', 'print the report as JSON')
    .action(async ({ memory, guest: guestName, bandwidth: rate, startTime, json }: DemoOptions) => {
      const settings = { memoryBytes: memory, guest: guestName, bandwidth: rate, startTimeMs: startTime };
      const report = await runDemo(settings, (line) => {
        if (json === undefined) process.stdout.write(`${line}\n`);
      });
      process.stdout.write(json ? `${JSON.stringify(report, null, 2)}\n` : formatDemoReport(report));
      await endProcess(report.isWhole ? 0 : 1);
    });
}

function bandwidth(text: string): number {
  const bytesPerSecond = sizeInMib(text);
  if (bytesPerSecond === 0) throw new InvalidArgumentError('It must be more than nothing.');
  return bytesPerSecond;
}

function sizeInMib(text: string): number {
  try {
    return parseSize(text, 2 ** 20);
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message);
  }
}

function wholeNumber(text: string): number {
  if (!/^[1-9]\d{0,8}$/.test(text)) throw new InvalidArgumentError('It must be a whole number, at least 1.');
  return Number(text);
}
