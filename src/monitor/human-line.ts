/**
 * One line of the human monitor: split into words, matched to a command, run.
 */
import type { Command, HmpArgument, HmpForm, HmpValues, MonitorContext } from './command.ts';
import { describeError } from './errors.ts';
import { helpText } from './help.ts';
import { parseSize, parseSwitch } from './parse-quantity.ts';

/** A line that cannot be understood. */
export class HumanSyntaxError extends SyntaxError {
  override readonly name = 'HumanSyntaxError';
}

/**
 * Runs a line.
 *
 * @returns what to print, without an end of line; failures are text too, for nothing ends the monitor
 */
export async function runHumanLine(context: MonitorContext, line: string): Promise<string> {
  let found: FoundCommand | undefined;
  try {
    const words = splitWords(line);
    if (words.length === 0) return '';
    if (words.length === 1 && words[0] === 'info') return helpText(context.commands, 'info');
    found = findCommand(context.commands, words);
    const { command, form, rest } = found;
    const values = parseArguments(form, rest);
    return await command.executeAsText(context, form.toArguments?.(values) ?? values);
  } catch (error) {
    if (!(error instanceof HumanSyntaxError)) return `Error: ${describeError(error).desc}`;
    const hint = found === undefined ? '' : `\nTry "help ${found.form.name}" for more information`;
    return `${error.message}${hint}`;
  }
}

/**
 * Words are parted by blanks; one that begins with a double quote ends at the next, with `\n`, `\r`, `\t`, `\\` and
 * `\"` as in C.
 *
 * @throws {HumanSyntaxError} if a quote is not closed, or an escape unknown
 */
export function splitWords(line: string): string[] {
  const words: string[] = [];
  const pattern = /\s*(?:"((?:[^"\\]|\\.)*)"(?=\s|$)|([^\s"]\S*)|(\S.*))/gsy;
  for (const [, quoted, plain, broken] of line.trimEnd().matchAll(pattern)) {
    if (broken !== undefined)
      throw new HumanSyntaxError(`Quote must be closed and followed by a blank: ${broken}`);
    words.push(quoted === undefined ? (plain as string) : resolveEscapes(quoted));
  }
  return words;
}

const ESCAPES: Readonly<Record<string, string>> = { n: '\n', r: '\r', t: '\t', '\\': '\\', '"': '"' };

function resolveEscapes(quoted: string): string {
  return quoted.replace(/\\(.)/gs, (_, letter: string) => {
    const character = ESCAPES[letter];
    if (character === undefined) throw new HumanSyntaxError(`Unsupported escape: \\${letter}`);
    return character;
  });
}

interface FoundCommand {
  readonly command: Command;
  readonly form: HmpForm;
  readonly rest: readonly string[];
}

function findCommand(commands: readonly Command[], words: readonly string[]): FoundCommand {
  const nameWords = words[0] === 'info' ? 2 : 1;
  const name = words.slice(0, nameWords).join(' ');
  for (const command of commands) {
    const form = command.hmp;
    if (form !== undefined && (form.name === name || form.alias === name)) {
      return { command, form, rest: words.slice(nameWords) };
    }
  }
  throw new HumanSyntaxError(`unknown command: '${name}'; try '${nameWords === 2 ? 'help info' : 'help'}'`);
}

/** @throws {HumanSyntaxError} if a word is missing, unknown or too many */
function parseArguments(form: HmpForm, words: readonly string[]): HmpValues {
  const values: Record<string, string | number | boolean> = {};
  const rest = [...words];
  while (form.flags !== undefined && rest[0]?.startsWith('-'))
    parseFlags(form, rest.shift() as string, values);
  for (const argument of form.positional ?? []) {
    const word = argument.kind === 'rest' ? rest.splice(0).join(' ') : rest.shift();
    if (word === undefined || (word === '' && argument.kind === 'rest')) {
      if (argument.isOptional) continue;
      throw new HumanSyntaxError(`${form.name}: ${argument.name} is missing`);
    }
    values[argument.name] = parseWord(form, argument, word);
  }
  if (rest.length > 0) throw new HumanSyntaxError(`${form.name}: unexpected argument "${rest.join(' ')}"`);
  return values;
}

function parseFlags(form: HmpForm, word: string, values: Record<string, string | number | boolean>): void {
  const letters = word.slice(1);
  if (letters === '') throw new HumanSyntaxError(`${form.name}: unsupported option -`);
  for (const letter of letters) {
    const name = Object.hasOwn(form.flags ?? {}, letter) ? form.flags?.[letter] : undefined;
    if (name === undefined) throw new HumanSyntaxError(`${form.name}: unsupported option -${letter}`);
    values[name] = true;
  }
}

function parseWord(form: HmpForm, argument: HmpArgument, word: string): string | number | boolean {
  try {
    if (argument.kind === 'size') return parseSize(word);
    return argument.kind === 'switch' ? parseSwitch(word) : word;
  } catch (error) {
    throw new HumanSyntaxError(`${form.name}: ${argument.name}: ${(error as Error).message}`);
  }
}
