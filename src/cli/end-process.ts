/**
 * The end of the process, also when threads of it are blocked in page faults.
 */
import { exitNow } from '../linux/exit.ts';

/** Tells whoever runs the program, at standard error. */
export function printMessage(text: string): void {
  process.stderr.write(`postcopy: ${text}\n`);
}

/** Ends at once. A terminal gets its echo back; what is buffered is lost. */
export function endProcessNow(code: number): never {
  if (process.stdin.isTTY) process.stdin.setRawMode(false);
  exitNow(code);
}

/** Ends once what was written to the standard streams is out. */
export async function endProcess(code: number): Promise<never> {
  await Promise.all([flushed(process.stdout), flushed(process.stderr)]);
  endProcessNow(code);
}

function flushed(stream: NodeJS.WriteStream): Promise<void> {
  return new Promise((resolve) => {
    if (stream.destroyed) resolve();
    else stream.write('', () => resolve());
  });
}
