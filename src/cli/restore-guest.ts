/**
 * What `postcopy restore` does: from the options of the command line to the end of QEMU.
 */
import { defaultCacheFolder } from '../cache/cache-folder.ts';
import { parseSize } from '../monitor/parse-quantity.ts';
import { shellExitCode } from '../qemu/qemu-process.ts';
import type { RemoteSnapshot } from '../restore/remote-snapshot.ts';
import {
  EndedGuestError,
  LostMemoryError,
  type RestoreOptions,
  restoreInto,
  restoreIntoNewQemu,
} from '../restore/restore.ts';
import { formatRestoreReport, type RestoreReport } from '../restore/restore-report.ts';
import { isServerUri } from '../restore/server-uri.ts';
import { openSnapshot } from '../snapshot/open-snapshot.ts';
import type { TlsOptions } from '../transport/tls-channel.ts';
import { endProcess, printMessage } from './end-process.ts';
import { parseDurationMs } from './parse-duration.ts';
import { UsageError } from './usage-error.ts';
import { watchSignals } from './watch-signals.ts';

const DEFAULT_RECONNECT_FOR = '5m';

export interface RestoreCommandOptions {
  readonly into?: string;
  readonly full?: true;
  readonly running?: true;
  readonly paused?: true;
  readonly record?: true;
  readonly order: boolean;
  readonly maxBandwidth?: string;
  /** A folder; false for none. */
  readonly cache?: string | false;
  readonly reconnectFor?: string;
  readonly json?: true;
  readonly object?: readonly string[];
  readonly tlsCreds?: string;
  readonly tlsHostname?: string;
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
  const tls = await tlsFor(options);
  // Of what never leaves this host there is nothing to protect.
  const tlsOf = (uri: string | undefined) => (uri?.startsWith('tcp:') ? tls : undefined);
  if (tls !== undefined && tlsOf(path) === undefined && tlsOf(options.into) === undefined) {
    throw new UsageError('--tls-creds is for connections over tcp:, and there is none');
  }
  // Before signals are watched: reading through a file keeps this thread busy, and must be ended by them at once.
  const local = isServerUri(path) ? undefined : openSnapshot(path);
  const interrupt = new AbortController();
  const stopWatching = watchSignals((signal) => interrupt.abort(signal));
  const remote =
    local === undefined
      ? await openRemote(path, maxBytesPerSecond, options, tlsOf(path), interrupt.signal)
      : undefined;
  const snapshot = local ?? (remote as RemoteSnapshot);
  const restoreOptions: RestoreOptions = {
    snapshot,
    remote,
    isFull: options.full === true,
    shouldRun: options.running ? true : options.paused ? false : undefined,
    isRecording: options.record === true,
    ignoresOrder: !options.order,
    maxBytesPerSecond,
    tls: tlsOf(options.into),
    onMessage: printMessage,
    signal: interrupt.signal,
  };
  try {
    if (options.into !== undefined) {
      tell(await restoreInto(options.into, restoreOptions), options);
      return 0;
    }
    const { qemu, report } = await restoreIntoNewQemu(command, restoreOptions);
    tell(report, options);
    // All is here: what was fetched is made safe on disk while the guest runs.
    void snapshot.close();
    stopWatching();
    // From here on it is QEMU that the terminal and the signals are for.
    const forget = watchSignals((signal) => qemu.signal(signal));
    const exit = await qemu.exited;
    forget();
    return shellExitCode(exit);
  } catch (error) {
    const lost = error instanceof LostMemoryError ? error.qemu : undefined;
    if (lost === undefined && !(error instanceof EndedGuestError)) throw error;
    printMessage((error as Error).message);
    if (lost === undefined) return 0;
    void snapshot.close();
    stopWatching();
    // A QEMU whose guest waits for a page does not heed signals: it may take force.
    const forget = watchSignals(() => void lost.terminate());
    await lost.exited;
    forget();
    return 1;
  } finally {
    stopWatching();
    await snapshot.close();
  }
}

/** What only some restores need is loaded by them alone: every one begins with loading modules. */
async function tlsFor({
  object,
  tlsCreds,
  tlsHostname,
}: RestoreCommandOptions): Promise<TlsOptions | undefined> {
  if (object === undefined && tlsCreds === undefined && tlsHostname === undefined) return undefined;
  const { CommandTls } = await import('./tls-options.ts');
  return new CommandTls(object).of('client', '--tls-creds', { credentials: tlsCreds, hostname: tlsHostname });
}

async function openRemote(
  uri: string,
  maxBytesPerSecond: number,
  options: RestoreCommandOptions,
  tls: TlsOptions | undefined,
  signal: AbortSignal,
): Promise<RemoteSnapshot> {
  const { openRemoteSnapshot } = await import('../restore/remote-snapshot.ts');
  return await openRemoteSnapshot({
    uri,
    cacheFolder: options.cache === false ? undefined : (options.cache ?? defaultCacheFolder()),
    maxBytesPerSecond,
    usesOrder: options.order && !options.record && !options.full,
    reconnectForMs: parseDurationMs(options.reconnectFor ?? DEFAULT_RECONNECT_FOR, 's'),
    tls,
    onMessage: printMessage,
    signal,
  });
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
