/**
 * `postcopy migrate`: drives a migration of two QEMUs, or of two machines of our own, from start to end over their monitors.
 */
import type { Command } from 'commander';
import { MigrationDriver } from '../drive/migration-driver.ts';
import { endProcess } from './end-process.ts';
import { formatMigrationReport } from './migrate/format-report.ts';
import { MigrationProgress } from './migrate/progress.ts';
import { type MigrateOptions, parseMigrateOptions } from './migrate-settings.ts';

const SIGNALS = ['SIGHUP', 'SIGINT', 'SIGTERM'] as const;

const MORE = `
Both sides must run already: the source with its guest, the destination with -incoming defer (ours: --incoming defer) and the
same machine. Each monitor serves one client: give QEMU a second -qmp if something else uses the first. Both sides are checked
before anything is changed; capabilities and parameters are afterwards as they were before.

^C cancels before the switch to postcopy, and the guest runs on at the source. After it nothing can be cancelled: a second ^C
ends this program, and the migration goes on. --join takes it over again, also to recover one that is paused.

Exit codes:
  0  completed: the guest is at the destination, with all its memory
  1  failed, or not started: the guest is at the source, as it was before
  2  wrong usage: nothing was done
  3  cancelled by ^C: the guest is at the source, as it was before
  4  paused in postcopy and not recovered: keep both processes, and recover by hand
  5  interrupted: the migration goes on without this program
  6  not known, or not safe to decide: look at both sides; the text says what is known

Examples:
  postcopy migrate --qmp a.qmp --to b.qmp
  postcopy migrate --qmp a.qmp --to b.qmp --postcopy auto --max-bandwidth 100M
  postcopy migrate --qmp tcp:host-a:4000 --to tcp:host-b:4000 --uri tcp:host-b:0 --postcopy-after 2s
  postcopy migrate --qmp tcp:host-a:4000 --to tcp:host-b:4000 --uri tcp:host-b:4444 --join
  postcopy migrate --qmp a.qmp --to b.qmp --capability xbzrle=on --capability destination:postcopy-blocktime=on
`;

/** Adds the command to the program. */
export function addMigrateCommand(program: Command): void {
  const repeat = (value: string, previous: readonly string[] = []) => [...previous, value];
  program
    .command('migrate')
    .description('drive a migration of two QEMUs, or of two machines of our own, over their monitors')
    .optionsGroup('Sides:')
    .option('--qmp <monitor>', 'QMP monitor of the source: unix:PATH, tcp:HOST:PORT or a path')
    .option('--to <monitor>', 'QMP monitor of the destination')
    .option(
      '--uri <uri>',
      'where the destination listens and the source connects: tcp:HOST:PORT (0: any), unix:PATH, ... (default: a private ' +
        'unix socket if both monitors are unix sockets)',
    )
    .option(
      '--listen-uri <uri>',
      'where the destination listens, if the source reaches it by another address',
    )
    .option(
      '--join',
      'take over a migration that is under way, or paused in postcopy, instead of starting one',
    )
    .optionsGroup('Migration:')
    .option(
      '--postcopy <when>',
      'switch to postcopy: auto, when another round would not help; or never (default)',
    )
    .option('--postcopy-after <time>', 'switch to postcopy after so much precopy: 500ms, 2s, 1m')
    .option('--max-bandwidth <size>', 'limit of precopy a second; a bare number counts MiB')
    .option('--downtime-limit <time>', 'precopy completes when what remains fits into this pause')
    .option(
      '--capability <name=on|off>',
      'on both sides, or behind source: or destination: (repeatable)',
      repeat,
    )
    .option('--parameter <name=value>', "likewise, in QMP's units (repeatable)", repeat)
    .option('--keep-settings', 'leave capabilities and parameters as they were set')
    .optionsGroup('When something is lost:')
    .option('--recover-for <time>', 'try so long to recover a migration that is paused in postcopy', '10m')
    .option('--monitor-timeout <time>', 'how long a monitor may owe an answer', '30s')
    .optionsGroup('Output:')
    .option('--json', 'print the report only, as JSON')
    .addHelpText('after', MORE)
    .action(async (options: MigrateOptions) => {
      await endProcess(await migrate(options));
    });
}

/** @returns the exit code */
async function migrate(options: MigrateOptions): Promise<number> {
  const plan = parseMigrateOptions(options);
  const progress = new MigrationProgress(options.json === true ? { write() {} } : process.stdout);
  const driver = new MigrationDriver(plan, progress);
  const interrupt = () => driver.interrupt();
  for (const signal of SIGNALS) process.on(signal, interrupt);
  try {
    const report = await driver.run();
    progress.end();
    process.stdout.write(
      options.json ? `${JSON.stringify(report, null, 2)}\n` : formatMigrationReport(report),
    );
    return report.exitCode;
  } finally {
    for (const signal of SIGNALS) process.off(signal, interrupt);
  }
}
