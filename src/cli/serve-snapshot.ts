/**
 * What `postcopy serve` does: from its options until somebody tells it to end.
 */
import { describeSnapshot } from '../restore/restore-report.ts';
import { SnapshotServer } from '../restore/snapshot-server.ts';
import { openSnapshot } from '../snapshot/open-snapshot.ts';
import { isLoopback } from '../transport/exposed-address.ts';
import { formatMigrationUri, type MigrationUri } from '../transport/parse-uri.ts';
import type { TlsOptions } from '../transport/tls-channel.ts';
import { endProcess, printMessage } from './end-process.ts';
import { watchSignals } from './watch-signals.ts';

export interface ServeSettings {
  readonly uri: MigrationUri & { scheme: 'tcp' | 'unix' };
  readonly maxSessions: number;
  /** A line for each session at standard output. */
  readonly isJson: boolean;
  readonly tls: TlsOptions | undefined;
}

/** Serves, until it is told to end, and ends this process. */
export async function serveSnapshot(
  path: string,
  { uri, maxSessions, isJson, tls }: ServeSettings,
): Promise<never> {
  const snapshot = openSnapshot(path);
  const told = new Promise<NodeJS.Signals>((resolve) => {
    watchSignals(resolve);
  });
  const server = await SnapshotServer.start({
    snapshot,
    uri: formatMigrationUri(uri),
    maxSessions,
    tls,
    onMessage: printMessage,
    ...(isJson && { onReport: (report) => process.stdout.write(`${JSON.stringify(report)}\n`) }),
  });
  printMessage(describeSnapshot(snapshot));
  if (tls === undefined && !isPrivate(uri)) {
    printMessage(
      'whoever can reach this address can read the memory of the guest: there is no encryption and no password (--tls-creds)',
    );
  }
  printMessage(`serves at ${server.address}`);
  const signal = await told;
  printMessage(`ends on ${signal}`);
  await server.close();
  snapshot.close();
  return await endProcess(0);
}

/** Whether only this host can connect. */
export function isPrivate(uri: ServeSettings['uri']): boolean {
  return uri.scheme === 'unix' || isLoopback(uri.host);
}
