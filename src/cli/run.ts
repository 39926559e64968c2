/**
 * `postcopy run`: a virtual machine that can be moved, or that waits for one.
 */
import type { Command } from 'commander';
import { endProcess } from './end-process.ts';
import { OBJECT_HELP } from './object-option.ts';
import { runMachine } from './run-machine.ts';
import { parseRunOptions, type RunOptions } from './run-settings.ts';

const EXAMPLES = `
Options of the machine must be equal on both sides of a migration.

Examples:
  A destination, and a source that moves its guest to it, switching to postcopy after a second:
    postcopy run --guest counter --memory 64M --capability postcopy-ram=on --incoming tcp:127.0.0.1:4444
    postcopy run --guest counter --memory 64M --capability postcopy-ram=on \\
      --parameter x-postcopy-start-time=1000 --monitor stdio
    (postcopy) migrate tcp:127.0.0.1:4444

  The same protected by TLS, with certificates in a folder (docs/tls.md); the source likewise, with endpoint=client:
    postcopy run --memory 64M --incoming tcp:0.0.0.0:4444 --parameter tls-creds=tls0 \\
      --object tls-creds-x509,id=tls0,endpoint=server,dir=/etc/pki/postcopy

  For programs, QMP at a unix socket, and a trace of what happens:
    postcopy run --kernel bzImage --append console=ttyS0 --qmp unix:/tmp/qmp --trace 'migrate_*'
`;

/** Adds the command to the program. */
export function addRunCommand(program: Command): void {
  const repeat = (value: string, previous: readonly string[] = []) => [...previous, value];
  program
    .command('run')
    .description('run a virtual machine that can be moved, or wait for one')
    .optionsGroup('Machine:')
    .option('-m, --memory <size>', 'memory of the guest; a bare number counts MiB', '256M')
    .option('--guest <name>', 'run a built-in test guest: counter, random or reader')
    .option('--kernel <file>', 'run this kernel (bzImage or multiboot)')
    .option('--initrd <file>', 'initial RAM disk of the kernel')
    .option('--append <text>', 'command line of the kernel')
    .option('--bios <file>', 'BIOS image')
    .option('--vga-bios <file>', 'VGA BIOS image')
    .option('--hda <file>', 'image of the first hard disk')
    .option('--cdrom <file>', 'image of the CD-ROM')
    .option('-S, --paused', 'do not let the guest run until "cont"')
    .optionsGroup('Migration:')
    .option('--incoming <uri>', 'wait for a migration at tcp:HOST:PORT, unix:PATH, ...; or defer')
    .option('--capability <name=on|off>', 'set a capability of migrations (repeatable)', repeat)
    .option('--parameter <name=value>', 'set a parameter of migrations (repeatable)', repeat)
    .option('--object <properties>', OBJECT_HELP, repeat)
    .option(
      '--reconnect',
      'find the other side again by itself when the connection breaks in postcopy (x-reconnect-ms=5000)',
    )
    .option('--dirty-tracking <how>', 'how writes of the guest are seen: auto, async or sync', 'auto')
    .optionsGroup('Consoles:')
    .option('--monitor <target>', 'human monitor at stdio, unix:PATH or none (default: stdio at a terminal)')
    .option('--qmp <target>', 'monitor for programs at stdio, unix:PATH or none', 'none')
    .option(
      '--serial <target>',
      "guest's serial console: stdio, stderr, null or file:PATH (default: stdio, null if a monitor has it)",
    )
    .option('--trace <pattern>', 'write these trace points, * for any characters (repeatable)', repeat)
    .option('--trace-file <file>', 'write the trace there rather than to standard error')
    .optionsGroup('Help:')
    .addHelpText('after', EXAMPLES)
    .action(async (options: RunOptions) => {
      const settings = parseRunOptions(options, process.stdin.isTTY === true);
      await endProcess(await runMachine(settings));
    });
}
