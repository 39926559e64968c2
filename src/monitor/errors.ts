/**
 * Errors as QMP gives them: a class that programs look at and a text for people.
 */
import { AssertionError } from 'node:assert';

export type QmpErrorClass = 'GenericError' | 'CommandNotFound' | 'DeviceNotFound';

/** A command that cannot be done; `message` is QMP's `desc`. */
export class QmpError extends Error {
  override readonly name = 'QmpError';
  readonly class: QmpErrorClass;

  constructor(message: string, errorClass: QmpErrorClass = 'GenericError') {
    super(message);
    this.class = errorClass;
  }
}

/** What a failed command answers. */
export function describeError(error: unknown): { class: QmpErrorClass; desc: string } {
  if (error instanceof QmpError) return { class: error.class, desc: error.message };
  const desc = error instanceof Error ? error.message : String(error);
  return { class: 'GenericError', desc: isInternalError(error) ? `internal error: ${desc}` : desc };
}

/** Whether an error is a mistake of ours. All others are about the world, and their text is for the user. */
export function isInternalError(error: unknown): boolean {
  if (!(error instanceof Error) || error instanceof AssertionError) return true;
  return error instanceof TypeError || error instanceof ReferenceError || error.constructor === SyntaxError;
}
