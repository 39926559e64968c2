/**
 * Which pages a destination has, as its monitor tells.
 */
import type { VmProcess } from './vm-process.ts';

export interface ReceivedPages {
  /** Stretches of `pc.ram` that have come, longest first. */
  readonly runs: readonly { readonly firstPage: number; readonly pageCount: number }[];
  /** A page that has not come, if there is one. */
  readonly missingPage: number | undefined;
}

export async function receivedRuns(vm: VmProcess): Promise<ReceivedPages> {
  const { 'human-readable-text': text } = await vm.qmp.execute<{ 'human-readable-text': string }>(
    'x-query-migrate-bitmap',
    { block: 'pc.ram' },
  );
  const bits = parseBitmap(text);
  const runs = [...bits.matchAll(/\.+/g)]
    .map(({ index, 0: run }) => ({ firstPage: index, pageCount: run.length }))
    .sort((a, b) => b.pageCount - a.pageCount);
  const missingPage = bits.indexOf('1');
  return { runs, missingPage: missingPage < 0 ? undefined : missingPage };
}

/** A character for each page. The text has 64 pages a line, equal lines shortened to `* 12 lines of .`. */
function parseBitmap(text: string): string {
  return text
    .trimEnd()
    .split('\n')
    .map((line) => {
      const short = /\* (?<count>\d+) lines of (?<mark>.)$/.exec(line)?.groups;
      if (short === undefined) return line.split('  ')[1] ?? '';
      return (short['mark'] ?? '').repeat(64 * Number(short['count']));
    })
    .join('');
}
