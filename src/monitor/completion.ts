/**
 * What Tab offers at the human monitor: names of commands, then of capabilities, parameters, trace points, blocks.
 */
import type { HmpForm, MonitorContext } from './command.ts';

/**
 * @param line what stands before the cursor
 * @returns the candidates, and the part of the line they would replace (readline's contract)
 */
export function completeLine(
  context: MonitorContext,
  line: string,
): [candidates: string[], replaced: string] {
  const words = line.trimStart().split(/\s+/);
  const typed = words.pop() ?? '';
  const candidates = candidatesAfter(context, words).filter((candidate) => candidate.startsWith(typed));
  return [candidates.map((candidate) => `${candidate} `), typed];
}

function candidatesAfter(context: MonitorContext, words: readonly string[]): readonly string[] {
  const forms = context.commands.flatMap(({ hmp }) => (hmp === undefined ? [] : [hmp]));
  if (words[0] === 'help') return nextWords(forms, words.slice(1));
  const nameWords = words[0] === 'info' ? 2 : 1;
  if (words.length < nameWords) return nextWords(forms, words);
  const name = words.slice(0, nameWords).join(' ');
  const form = forms.find((each) => each.name === name || each.alias === name);
  const given = words.slice(nameWords).filter((word) => !/^-\w+$/.test(word)).length;
  const argument = form?.positional?.[given];
  if (argument?.kind === 'switch') return ['on', 'off'];
  return argument?.choices?.(context) ?? [];
}

/** Words that may follow in the name of a command. */
function nextWords(forms: readonly HmpForm[], words: readonly string[]): string[] {
  const names = forms
    .map(({ name }) => name.split(' '))
    .filter((parts) => parts.length > words.length && words.every((word, index) => parts[index] === word))
    .map((parts) => parts[words.length] as string);
  return [...new Set(names)].sort();
}
