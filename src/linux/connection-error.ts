import { SyscallError } from './libc.ts';

const WORDS: Readonly<Record<string, string>> = {
  EPIPE: 'the peer closed it',
  ECONNRESET: 'the peer reset it',
  ETIMEDOUT: 'the peer does not answer',
  ENOSPC: 'no space is left on the device',
};

/** The error of a broken connection in words. */
export function connectionError(error: unknown): Error {
  if (!(error instanceof SyscallError)) return error as Error;
  const text = WORDS[error.code];
  return text === undefined ? error : new Error(`${text} (${error.code})`, { cause: error });
}
