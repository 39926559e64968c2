/**
 * The text of `help`, from the table of commands.
 */
import type { Command, HmpForm } from './command.ts';
import { QmpError } from './errors.ts';

const INFO = 'info ';

/** What `help` says at the end: what a person cannot guess. */
const NOTES = [
  'Quote arguments with spaces: migrate "exec:cat > file"',
  'The end of input, or Ctrl-D at a terminal, does not end the machine: "quit" does, or Ctrl-C at a terminal.',
  'While a command is busy others wait; info, migrate_cancel and migrate_start_postcopy for a second at most.',
];

/**
 * @param topic name of a command or its alias, `info`, `info` and a word, or empty for all
 * @throws {QmpError} if there is no such command
 */
export function helpText(commands: readonly Command[], topic: string): string {
  const people = commands.flatMap(({ hmp, help }) => (hmp === undefined ? [] : [{ hmp, help }]));
  const lines = (wanted: (form: HmpForm) => boolean) =>
    people
      .filter(({ hmp }) => wanted(hmp))
      .map(({ hmp, help }) => `${usage(hmp)} -- ${help}`)
      .sort();
  if (topic === '') {
    return [
      ...lines(({ name }) => !name.startsWith(INFO)),
      'info [topic] -- show what "help info" lists',
      '',
      ...NOTES,
    ].join('\n');
  }
  if (topic === 'info') return lines(({ name }) => name.startsWith(INFO)).join('\n');
  const found = lines(({ name, alias }) => name === topic || alias === topic);
  if (found.length === 0) throw new QmpError(`unknown command: '${topic}'; try 'help'`);
  return found.join('\n');
}

/** e.g. `migrate [-d] uri` */
export function usage(form: HmpForm): string {
  const flags = Object.keys(form.flags ?? {}).map((letter) => `[-${letter}]`);
  const positional = (form.positional ?? []).map(({ name, kind, isOptional }) => {
    const shown = kind === 'switch' ? 'on|off' : name;
    return isOptional ? `[${shown}]` : shown;
  });
  return [form.alias === undefined ? form.name : `${form.name}|${form.alias}`, ...flags, ...positional].join(
    ' ',
  );
}
