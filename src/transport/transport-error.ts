/**
 * Why a transport failed, in words that name the URI and the action; the system's error is the `cause`.
 */
import { getSystemErrorMap } from 'node:util';
import { formatMigrationUri, type MigrationUri, type UriScheme } from './parse-uri.ts';

/** A channel could not be opened, accepted, or finished. */
export class TransportError extends Error {
  override readonly name = 'TransportError';
  /**
   * A system error (`ECONNREFUSED`, `EADDRINUSE`, `ENOENT`, …), `ETIMEDOUT` also when our own time limit passed,
   * `ABORT_ERR` (by the caller's signal), `ECANCELED` (the listener was closed), or `COMMAND_FAILED`.
   */
  readonly code: string;
  /** The URI as text. */
  readonly uri: string;

  constructor(message: string, code: string, uri: string, cause?: unknown) {
    super(message, cause === undefined ? {} : { cause });
    this.code = code;
    this.uri = uri;
  }
}

export type TransportAction = 'open' | 'listen' | 'accept';

/** What a user should look at first, by error code, action and scheme; the first match counts. */
const HINTS: readonly (readonly [code: string, action: TransportAction, scheme: UriScheme, hint: string])[] =
  [
    ['ECONNREFUSED', 'open', 'tcp', 'is a destination listening there?'],
    ['ECONNREFUSED', 'open', 'unix', 'is a destination listening there?'],
    ['ENOENT', 'open', 'unix', 'is a destination listening there?'],
    ['EADDRINUSE', 'listen', 'tcp', 'is another destination listening there?'],
    ['EADDRNOTAVAIL', 'listen', 'tcp', 'is it an address of this host?'],
    ['EBADF', 'open', 'fd', 'it is not open in this process'],
    ['ENXIO', 'open', 'file', 'for a named pipe use exec:'],
  ];

/**
 * Wraps a system error: `Failed to connect to "tcp:h:1": connection refused (is a destination listening there?)`
 *
 * @param hint in place of the usual one for this error
 */
export function systemFailure(
  action: TransportAction,
  uri: MigrationUri,
  cause: unknown,
  hint = usualHint(action, uri.scheme, codeOf(cause)),
): TransportError {
  const code = codeOf(cause);
  const reason = describe(code) ?? (cause instanceof Error ? cause.message : String(cause));
  return failure(action, uri, code, hint === undefined ? reason : `${reason} (${hint})`, cause);
}

/** A failure that only we know the reason of. */
export function failure(
  action: TransportAction,
  uri: MigrationUri,
  code: string,
  reason: string,
  cause?: unknown,
): TransportError {
  const text = formatMigrationUri(uri);
  return new TransportError(`Failed to ${verb(action, uri.scheme)} "${text}": ${reason}`, code, text, cause);
}

/** @throws {TransportError} `ABORT_ERR` if the signal has fired */
export function throwIfAborted(
  action: TransportAction,
  uri: MigrationUri,
  signal: AbortSignal | undefined,
): void {
  if (signal?.aborted) throw abortFailure(action, uri, signal);
}

export function abortFailure(
  action: TransportAction,
  uri: MigrationUri,
  signal: AbortSignal,
): TransportError {
  return failure(action, uri, 'ABORT_ERR', 'the operation was aborted', signal.reason);
}

/** The `code` of a system error. */
export function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : 'UNKNOWN';
}

function verb(action: TransportAction, scheme: UriScheme): string {
  if (action === 'listen') return 'listen on';
  if (action === 'accept') return 'accept on';
  if (scheme === 'tcp' || scheme === 'unix') return 'connect to';
  return scheme === 'exec' ? 'start' : 'open';
}

function usualHint(action: TransportAction, scheme: UriScheme, code: string): string | undefined {
  return HINTS.find((hint) => hint[0] === code && hint[1] === action && hint[2] === scheme)?.[3];
}

function describe(code: string): string | undefined {
  if (code === 'ENOTFOUND') return 'the host name is not known';
  if (code === 'EAI_AGAIN') return 'the name server does not answer';
  for (const [name, message] of getSystemErrorMap().values()) if (name === code) return message;
  return undefined;
}
