/**
 * What the kernel says when it refuses, in words for a user.
 */
import { getSystemErrorMap } from 'node:util';

/** Whether the error is one of the kernel's, from Node or from us. */
export function isSystemError(error: unknown): error is Error & { code: string; syscall: string } {
  return error instanceof Error && 'code' in error && 'syscall' in error && typeof error.code === 'string';
}

/** e.g. `no space left on device (ENOSPC)`; of other errors their own text */
export function systemErrorText(error: unknown): string {
  if (!isSystemError(error)) return error instanceof Error ? error.message : String(error);
  for (const [name, text] of getSystemErrorMap().values()) {
    if (name === error.code) return `${text} (${error.code})`;
  }
  return error.code;
}
