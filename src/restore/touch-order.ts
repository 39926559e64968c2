/**
 * The order in which a guest first touched its pages after a restore, kept beside its snapshot.
 *
 * A file of JSON: which machine and blocks it is of, how many page requests there were, and the pages in runs
 * `[block, first page, count]`. It is advice: a wrong one costs time, never correctness.
 */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { systemErrorText } from '../linux/system-error-text.ts';
import { type RamBlockLayout, TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import type { PageRun } from '../migration/push-order.ts';

const VERSION = 1;
const MAX_FILE_BYTES = 256 * 1024 * 1024;

export interface TouchOrder {
  /** Page requests that the recorded restore had. */
  readonly requests: number;
  readonly runs: readonly PageRun[];
}

/** What an order belongs to. */
export interface OrderedMachine {
  readonly machineType: string;
  readonly blocks: readonly RamBlockLayout[];
}

/** The order file cannot be used; the text says why. */
export class TouchOrderError extends Error {
  override readonly name = 'TouchOrderError';
}

export function touchOrderPath(snapshotPath: string): string {
  return `${snapshotPath}.order`;
}

/**
 * @returns undefined if there is no such file
 * @throws {TouchOrderError} if it is no touch order, or one of another machine
 */
export function readTouchOrder(path: string, machine: OrderedMachine): TouchOrder | undefined {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new TouchOrderError(`"${path}" cannot be read: ${(error as Error).message}`, { cause: error });
  }
  if (text.length > MAX_FILE_BYTES) throw new TouchOrderError(`"${path}" is too long for a touch order`);
  const file = parseFile(path, text);
  const isOfMachine =
    file['machine-type'] === machine.machineType &&
    file.blocks.length === machine.blocks.length &&
    file.blocks.every(({ idstr, length }, index) => {
      const block = machine.blocks[index];
      return idstr === block?.idstr && length === block.lengthBytes;
    });
  if (!isOfMachine) throw new TouchOrderError(`"${path}" is the touch order of another machine`);
  const isInside = file.runs.every(
    ([block, firstPage, pageCount]) =>
      (firstPage + pageCount) * TARGET_PAGE_BYTES <= (machine.blocks[block]?.lengthBytes ?? 0),
  );
  if (!isInside) throw new TouchOrderError(`"${path}" is no touch order: it names pages that do not exist`);
  return {
    requests: file.requests,
    runs: file.runs.map(([block, firstPage, pageCount]) => ({ block, firstPage, pageCount })),
  };
}

/** Replaces the file in one step. @throws {TouchOrderError} if it cannot be written */
export function writeTouchOrder(path: string, machine: OrderedMachine, order: TouchOrder): void {
  const file = {
    'touch-order': VERSION,
    'machine-type': machine.machineType,
    blocks: machine.blocks.map(({ idstr, lengthBytes }) => ({ idstr, length: lengthBytes })),
    requests: order.requests,
    runs: order.runs.map(({ block, firstPage, pageCount }) => [block, firstPage, pageCount]),
  };
  const partial = `${path}.${process.pid}.partial`;
  try {
    writeFileSync(partial, `${JSON.stringify(file)}\n`, { mode: 0o600 });
    renameSync(partial, path);
  } catch (error) {
    rmSync(partial, { force: true });
    throw new TouchOrderError(`"${path}" cannot be written: ${systemErrorText(error)}`, { cause: error });
  }
}

/** The library is loaded when there is a file: most restores have none, and every one begins with loading modules. */
function parseFile(path: string, text: string) {
  const v = createRequire(import.meta.url)('valibot') as typeof import('valibot');
  const pageNumber = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
  const fileSchema = v.object({
    'touch-order': v.literal(VERSION),
    'machine-type': v.string(),
    blocks: v.array(v.object({ idstr: v.string(), length: pageNumber })),
    requests: pageNumber,
    runs: v.array(v.tuple([pageNumber, pageNumber, v.pipe(pageNumber, v.minValue(1))])),
  });
  const parsed = v.safeParse(fileSchema, parseJson(text));
  if (parsed.success) return parsed.output;
  throw new TouchOrderError(`"${path}" is no touch order: ${v.summarize(parsed.issues).split('\n')[0]}`);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
