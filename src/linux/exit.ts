/**
 * `_exit(2)`: ends the process at once, all its threads included.
 *
 * Node's `process.exit()` waits for worker threads to stop, and a guest thread that waits in a page fault never does.
 */
import { libc } from './libc.ts';

const exitCall = libc.func('void _exit(int status)');

/** Ends the process with `code`. Nothing is flushed: what must be said has been written by then. */
export function exitNow(code: number): never {
  exitCall(code);
  throw new Error('_exit returned');
}
