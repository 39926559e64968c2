/**
 * The end of the process, also when threads of it are blocked in page faults.
 */
import { exitNow } from '../linux/exit.ts';
import { flushTlsChannels } from '../transport/tls-pumps.ts';

/** Tells whoever runs the program, at standard error. */
export function printMessage(text: string): void {
  process.stderr.write(`postcopy: ${text}\n`);
}

/** Ends at once. A terminal gets its echo back; what is buffered is lost. */
export function endProcessNow(code: number): never {
  if (process.stdin.isTTY) process.stdin.setRawMode(false);
  exitNow(code);
}

/** How long the other side of a connection may take to read what it was sent last. */
const FLUSH_MS = 3000;

/** Ends once what was written to the standard streams, and to protected connections that are closed, is out. */
export async function endProcess(code: number): Promise<never> {
  await flushTlsChannels(FLUSH_MS);
  await Promise.all([flushed(process.stdout), flushed(process.stderr)]);
  endProcessNow(code);
}

function flushed(stream: NodeJS.WriteStream): Promise<void> {
  return new Promise((resolve) => {
    if (stream.destroyed) resolve();
    else stream.write('', () => resolve());
  });
}
