/**
 * What went wrong with a snapshot's file, in words for a user: what was to be done, with which file, and why it cannot be.
 */
import { isSystemError, systemErrorText } from '../linux/system-error-text.ts';

/**
 *   NOT_A_SNAPSHOT  the file is something else
 *   DAMAGED         it contradicts itself
 *   TRUNCATED       it ends too early, or was never finished
 *   UNSUPPORTED     it is right, but of a kind that cannot be served from
 *   EXISTS          there is a file of that name already
 *   SYSTEM          the system refused; the `cause` is its error
 */
export type SnapshotErrorCode =
  | 'NOT_A_SNAPSHOT'
  | 'DAMAGED'
  | 'TRUNCATED'
  | 'UNSUPPORTED'
  | 'EXISTS'
  | 'SYSTEM';

export class SnapshotError extends Error {
  override readonly name = 'SnapshotError';
  readonly code: SnapshotErrorCode;
  readonly path: string;

  constructor(code: SnapshotErrorCode, message: string, path: string, cause?: unknown) {
    super(message, cause === undefined ? {} : { cause });
    this.code = code;
    this.path = path;
  }
}

export type SnapshotAction = 'read' | 'write';

/** `Cannot write snapshot "web1.snap": no space left on device (ENOSPC)` */
export function systemFailure(action: SnapshotAction, path: string, cause: unknown): SnapshotError {
  return new SnapshotError(
    'SYSTEM',
    `Cannot ${action} snapshot "${path}": ${systemErrorText(cause)}`,
    path,
    cause,
  );
}

/** Runs `what`; a system error in it comes out as a `SnapshotError` that names the file. */
export function withPath<Result>(action: SnapshotAction, path: string, what: () => Result): Result {
  try {
    return what();
  } catch (error) {
    throw isSystemError(error) ? systemFailure(action, path, error) : error;
  }
}
