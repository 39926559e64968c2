/**
 * The `fd:` transport: a descriptor that whoever started this process left open in it.
 *
 * The URI hands it over: the channel makes it non-blocking and closes it.
 */
import { readFileSync } from 'node:fs';
import { fdKind, setNonblocking } from '../linux/fd.ts';
import { type Channel, FdChannel } from './channel.ts';
import { formatMigrationUri, type MigrationUri } from './parse-uri.ts';
import { failure } from './transport-error.ts';

/** `O_ACCMODE` bits that a descriptor lacks for each direction: `O_WRONLY` cannot read, `O_RDONLY` cannot write. */
const UNFIT = { read: { mode: 1, only: 'writing' }, write: { mode: 0, only: 'reading' } } as const;

/** @throws `EBADF` if the descriptor is not open, and {TransportError} if it is open for the other direction only */
export function openGivenFd(uri: MigrationUri & { scheme: 'fd' }, direction: 'read' | 'write'): Channel {
  const kind = fdKind(uri.fd);
  if (accessMode(uri.fd) === UNFIT[direction].mode) {
    throw failure('open', uri, 'EBADF', `the descriptor is open for ${UNFIT[direction].only} only`);
  }
  setNonblocking(uri.fd, true);
  return new FdChannel({ fd: uri.fd, hasReturnPath: kind === 'socket', peer: formatMigrationUri(uri) });
}

function accessMode(fd: number): number | undefined {
  const [, flags] = /^flags:\s*([0-7]+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1')) ?? [];
  return flags === undefined ? undefined : Number.parseInt(flags, 8) & 3;
}
