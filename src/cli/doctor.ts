/**
 * `postcopy doctor`: one line for each thing a migration needs of this host.
 */
import type { Command } from 'commander';
import { type Check, checkHost } from './doctor-checks.ts';

const EXAMPLES = `
Exit code 0 if this host can migrate the built-in machine both ways, else 1.

Examples:
  postcopy doctor
  postcopy doctor --json | jq '.checks[] | select(.ok | not)'
`;

/** Adds the command to the program. */
export function addDoctorCommand(program: Command): void {
  program
    .command('doctor')
    .description('say what this host can do')
    .option('--json', 'as JSON')
    .addHelpText('after', EXAMPLES)
    .action((options: { json?: boolean }) => {
      const checks = checkHost();
      process.stdout.write(options.json ? checksAsJson(checks) : checksAsText(checks));
      process.exitCode = canMigrate(checks) ? 0 : 1;
    });
}

/** Whether nothing that is needed is missing. */
export function canMigrate(checks: readonly Check[]): boolean {
  return checks.every(({ isOk, isNeeded }) => isOk || !isNeeded);
}

export function checksAsJson(checks: readonly Check[]): string {
  const shown = checks.map(({ name, isOk, found, meaning, isNeeded }) => ({
    name,
    ok: isOk,
    found,
    meaning,
    needed: isNeeded,
  }));
  return `${JSON.stringify({ ok: canMigrate(checks), checks: shown }, undefined, 2)}\n`;
}

export function checksAsText(checks: readonly Check[]): string {
  const width = Math.max(...checks.map(({ name }) => name.length));
  const lines = checks.map(
    ({ name, isOk, found, meaning }) =>
      `${isOk ? 'ok' : 'no'}  ${name.padEnd(width)}  ${found} (${meaning})\n`,
  );
  const summary = canMigrate(checks)
    ? 'This host can migrate the built-in machine both ways.\n'
    : `This host cannot: ${checks
        .filter(({ isOk, isNeeded }) => isNeeded && !isOk)
        .map(({ name }) => name)
        .join(', ')}.\n`;
  return `${lines.join('')}\n${summary}`;
}
