/**
 * `postcopy restore`: a guest from a snapshot, running before its memory is there.
 */
import type { Command } from 'commander';
import { checkQemuCommand, QemuStartError } from '../qemu/qemu-command.ts';
import { isServerUri } from '../restore/server-uri.ts';
import { startSpareSnapshotThread } from '../threads/spare-snapshot-thread.ts';
import { parseMigrationUri } from '../transport/parse-uri.ts';
import { OBJECT_HELP, repeatable } from './object-option.ts';
import { parseDurationMs } from './parse-duration.ts';
import type { RestoreCommandOptions } from './restore-guest.ts';
import { UsageError } from './usage-error.ts';

const EXAMPLES = `
The snapshot is a file, or the address of a "postcopy serve" on another host: what has come from there is kept in the cache
folder, so that no page is asked for twice on this host.

QEMU needs the options of the machine that was saved; "-incoming" and a monitor for postcopy are added to them. The
snapshot is only read: many machines may be restored from it, also at the same time.

Exit code: that of QEMU once it has ended, 1 if the guest could not be restored, 2 for wrong usage.

Examples:
  A QEMU that runs at once, whatever its memory:
    postcopy restore web1.snap -- qemu-system-x86_64 -machine pc -m 2G -nographic
  Learn what the guest touches first, and have that ready the next time:
    postcopy restore --record web1.snap -- qemu-system-x86_64 -machine pc -m 2G
  From another host, where "postcopy serve web1.snap --listen tcp:0.0.0.0:7000" runs:
    postcopy restore tcp:host1:7000 -- qemu-system-x86_64 -machine pc -m 2G -nographic
  Into a machine that waits for it, with postcopy-ram switched on:
    postcopy restore web1.snap --into unix:/tmp/vm.migration
`;

/** Adds the command to the program. */
export function addRestoreCommand(program: Command): void {
  program
    .command('restore')
    .description('start a guest from a snapshot; it runs while its memory is still being loaded')
    .argument(
      '<snapshot>',
      'file of "postcopy save", of QEMU\'s mapped-ram, or a migration stream; or tcp:HOST:PORT, unix:PATH of a server',
    )
    .argument('[qemu...]', 'behind "--": QEMU and its options')
    .option(
      '--into <uri>',
      'a machine that waits at tcp:HOST:PORT or unix:PATH, instead of a QEMU of our own',
    )
    .option('--full', 'load all memory before the guest runs')
    .option('--running', 'let the guest run, also if it was paused when it was saved')
    .option('--paused', 'leave the guest paused')
    .option('--record', 'write down the order of first touches, beside the snapshot or its part in the cache')
    .option('--no-order', 'do not play back an order that was recorded')
    .option(
      '--max-bandwidth <rate>',
      'bytes per second of what the guest has not asked for; K, M, G (default: no limit)',
    )
    .option(
      '--cache <folder>',
      'where to keep what a server has sent (default: postcopy in $XDG_CACHE_HOME or ~/.cache)',
    )
    .option('--no-cache', 'keep nothing of what a server has sent')
    .option('--reconnect-for <time>', 'how long to try to reach a server again: 30s, 5m, 1h (default: 5m)')
    .option('--object <properties>', OBJECT_HELP, repeatable)
    .option(
      '--tls-creds <id>',
      'object with the credentials for connections over tcp:, to a server and with --into',
    )
    .option(
      '--tls-hostname <name>',
      'what the certificate at the other end must have, if not the host of the address',
    )
    .option('--json', 'report as JSON, at standard output')
    .addHelpText('after', EXAMPLES)
    .action(async (path: string, command: readonly string[], options: RestoreCommandOptions) => {
      checkUsage(path, command, options);
      startSpareSnapshotThread();
      const { restoreGuest } = await import('./restore-guest.ts');
      await restoreGuest(path, command, options);
    });
}

function checkUsage(path: string, command: readonly string[], options: RestoreCommandOptions): void {
  const { into, full, record, running, paused } = options;
  if ((into === undefined) === (command.length === 0)) {
    throw new UsageError(
      'Say where the guest is to run: either a QEMU and its options behind "--", or a URI with --into',
    );
  }
  if (full && record)
    throw new UsageError('--record needs a guest that asks for its memory: leave out --full');
  if (record && options.cache === false) {
    throw new UsageError('--record keeps the order of first touches in the cache: leave out --no-cache');
  }
  if (running && paused) throw new UsageError('--running and --paused exclude each other');
  if (into !== undefined && (running || paused)) {
    throw new UsageError('--running and --paused need a QEMU of our own; whoever waits decides by itself');
  }
  if (!isServerUri(path) && (options.cache !== undefined || options.reconnectFor !== undefined)) {
    throw new UsageError('--cache, --no-cache and --reconnect-for are for a snapshot on another host');
  }
  try {
    if (isServerUri(path)) parseMigrationUri(path);
    if (options.reconnectFor !== undefined) checkDuration('--reconnect-for', options.reconnectFor);
    if (into !== undefined) parseMigrationUri(into);
    else checkQemuCommand(command);
  } catch (error) {
    if (error instanceof RangeError || error instanceof SyntaxError || error instanceof QemuStartError) {
      throw new UsageError(error.message);
    }
    throw error;
  }
}

function checkDuration(option: string, text: string): void {
  try {
    parseDurationMs(text, 's');
  } catch (error) {
    throw new UsageError(`${option}: ${(error as Error).message}`);
  }
}
