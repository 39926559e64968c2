/**
 * The command `postcopy`.
 *
 * Exit codes: 0 fine, 1 the operation failed, 2 wrong usage. POSTCOPY_DEBUG=1 shows where an error came from.
 */
import { Command, CommanderError } from 'commander';
import { isInternalError } from '../monitor/errors.ts';
import { endProcess, printMessage } from './end-process.ts';
import { packageVersion } from './package-info.ts';
import { UsageError } from './usage-error.ts';

const ABOUT = `Live migration of virtual machines in QEMU's wire protocol. Memory is copied while the guest runs; when \
that does not converge, the guest moves first and fetches its pages as it touches them (postcopy).`;

const EXAMPLES = `
Examples:
  postcopy demo                            a live migration, with a verdict
  postcopy doctor                          what this host can do
  postcopy run --help                      all options of a machine
  postcopy migrate --qmp a.qmp --to b.qmp  move a guest of one QEMU to another
  postcopy save --qmp vm.qmp web1.snap     the guest of a running QEMU, to a file
`;

/** Each command is loaded when it is asked for: a guest that is restored should not wait for the others. */
const COMMANDS: Readonly<Record<string, (program: Command) => Promise<void>>> = {
  run: async (program) => (await import('./run.ts')).addRunCommand(program),
  migrate: async (program) => (await import('./migrate.ts')).addMigrateCommand(program),
  save: async (program) => (await import('./save.ts')).addSaveCommand(program),
  restore: async (program) => (await import('./restore.ts')).addRestoreCommand(program),
  serve: async (program) => (await import('./serve.ts')).addServeCommand(program),
  relay: async (program) => (await import('./relay.ts')).addRelayCommand(program),
  inspect: async (program) => (await import('./inspect.ts')).addInspectCommand(program),
  doctor: async (program) => (await import('./doctor.ts')).addDoctorCommand(program),
  demo: async (program) => (await import('./demo.ts')).addDemoCommand(program),
};

/** @param argv as `process.argv`: two words, then the arguments */
export async function main(argv: readonly string[]): Promise<void> {
  const fail = (error: unknown) => endProcess(reportError(error, argv[2]));
  // Whoever reads what is printed may have gone: that ends nothing, and there is nobody to complain to.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});
  process.on('uncaughtException', fail);
  process.on('unhandledRejection', fail);
  const program = new Command('postcopy')
    .description(ABOUT)
    .version(packageVersion())
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, 'postcopy: ')) })
    .showHelpAfterError('Try "postcopy --help".')
    .exitOverride()
    .addHelpText('after', EXAMPLES);
  const named = Object.entries(COMMANDS).filter(([name]) => name === argv[2]);
  for (const [, add] of named.length > 0 ? named : Object.entries(COMMANDS)) await add(program);
  for (const command of program.commands)
    command.showHelpAfterError(`Try "postcopy ${command.name()} --help".`);
  try {
    await program.parseAsync(argv);
  } catch (error) {
    await fail(error);
  }
}

/** @param command the subcommand, for what to try. @returns the exit code */
function reportError(error: unknown, command = ''): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2; // it has printed its own text
  const isDebug = process.env['POSTCOPY_DEBUG'] === '1';
  if (isDebug && error instanceof Error) process.stderr.write(`${error.stack}\n`);
  const text = error instanceof Error ? error.message : String(error);
  if (error instanceof UsageError) {
    printMessage(`${text}\nTry "postcopy ${command} --help".`);
    return 2;
  }
  if (!isInternalError(error)) printMessage(text);
  else
    printMessage(`internal error: ${text}${isDebug ? '' : '\nPOSTCOPY_DEBUG=1 shows where it comes from.'}`);
  return 1;
}
