/**
 * What `postcopy restore` does: from the options of the command line to the end of QEMU.
 */
import { parseSize } from '../monitor/parse-quantity.ts';
import { shellExitCode } from '../qemu/qemu-process.ts';
import { LostMemoryError, type RestoreOptions, restoreInto, restoreIntoNewQemu } from '../restore/restore.ts';
import { formatRestoreReport, type RestoreReport } from '../restore/restore-report.ts';
import { openSnapshot } from '../snapshot/open-snapshot.ts';
import { endProcess, endProcessNow, printMessage } from './end-process.ts';
import { UsageError } from './usage-error.ts';

export interface RestoreCommandOptions {
  readonly into?: string;
  readonly full?: true;
  readonly running?: true;
  readonly paused?: true;
  readonly record?: true;
  readonly order: boolean;
  readonly maxBandwidth?: string;
  readonly json?: true;
}

/** Restores the guest, stays until its QEMU ends, and ends this process. */
export async function restoreGuest(
  path: string,
  command: readonly string[],
  options: RestoreCommandOptions,
): Promise<never> {
  return await endProcess(await restore(path, command, options));
}

async function restore(
  path: string,
  command: readonly string[],
  options: RestoreCommandOptions,
): Promise<number> {
  const maxBytesPerSecond = parseRate(options.maxBandwidth);
  const interrupt = new AbortController();
  const snapshot = openSnapshot(path);
  const restoreOptions: RestoreOptions = {
    snapshot,
    isFull: options.full === true,
    shouldRun: options.running ? true : options.paused ? false : undefined,
    isRecording: options.record === true,
    ignoresOrder: !options.order,
    maxBytesPerSecond,
    onMessage: printMessage,
    signal: interrupt.signal,
  };
  const stopWatching = watchSignals((signal) => interrupt.abort(signal));
  try {
    if (options.into !== undefined) {
      tell(await restoreInto(options.into, restoreOptions), options);
      return 0;
    }
    const { qemu, report } = await restoreIntoNewQemu(command, restoreOptions);
    tell(report, options);
    stopWatching();
    // From here on it is QEMU that the terminal and the signals are for.
    const forget = watchSignals((signal) => qemu.signal(signal));
    const exit = await qemu.exited;
    forget();
    return shellExitCode(exit);
  } catch (error) {
    if (!(error instanceof LostMemoryError) || error.qemu === undefined) throw error;
    printMessage(error.message);
    await error.qemu.exited;
    return 1;
  } finally {
    stopWatching();
    snapshot.close();
  }
}

function tell(report: RestoreReport, { json }: RestoreCommandOptions): void {
  if (json) process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
  else printMessage(formatRestoreReport(report));
}

function parseRate(text: string | undefined): number {
  if (text === undefined) return 0;
  try {
    return parseSize(text);
  } catch (error) {
    throw new UsageError(`--max-bandwidth: ${(error as Error).message}`);
  }
}

/** The second signal ends this process at once. @returns a function that stops watching */
function watchSignals(onSignal: (signal: NodeJS.Signals) => void): () => void {
  let count = 0;
  const handler = (signal: NodeJS.Signals) => {
    if (++count > 1) endProcessNow(130);
    onSignal(signal);
  };
  const signals = ['SIGHUP', 'SIGINT', 'SIGTERM'] as const;
  for (const signal of signals) process.on(signal, handler);
  return () => {
    for (const signal of signals) process.off(signal, handler);
  };
}
