/**
 * The `file:` transport: a stream kept in a file, optionally behind a header of the caller's.
 *
 * Node cannot seek, so the position comes about in other ways: a writer cuts the file at the offset and appends, a
 * reader reads up to it.
 */
import { closeSync, constants, fstatSync, ftruncateSync, openSync, readSync } from 'node:fs';
import { dupCloexec } from '../linux/fd.ts';
import { type Channel, FdChannel } from './channel.ts';
import { formatMigrationUri, type MigrationUri } from './parse-uri.ts';
import { failure } from './transport-error.ts';

type FileUri = MigrationUri & { scheme: 'file' };

/** The stream holds the guest's memory: nobody else's business. */
const CREATE_MODE = 0o600;
const SKIP_BYTES = 1 << 20;

/** O_NONBLOCK so that opening a named pipe by mistake fails instead of waiting. */
const WRITE_FLAGS = constants.O_WRONLY | constants.O_CREAT | constants.O_APPEND | constants.O_NONBLOCK;
const READ_FLAGS = constants.O_RDONLY | constants.O_NONBLOCK;

/**
 * Opens the file, created if it is not there; what it holds from the offset on is lost.
 *
 * @throws system errors, and {TransportError} if the path is not a file
 */
export function openFileForWriting(uri: FileUri): Channel {
  return openAs(uri, WRITE_FLAGS, (fd) => {
    if (fstatSync(fd).isFile()) ftruncateSync(fd, uri.offsetBytes);
  });
}

/** @throws system errors, and {TransportError} if the path is not a file or ends before the offset */
export function openFileForReading(uri: FileUri): Channel {
  return openAs(uri, READ_FLAGS, (fd) => skip(fd, uri));
}

function openAs(uri: FileUri, flags: number, position: (fd: number) => void): Channel {
  const fd = openSync(uri.path, flags, CREATE_MODE);
  try {
    const stat = fstatSync(fd);
    if (stat.isFIFO()) throw failure('open', uri, 'EINVAL', 'it is a named pipe (use exec:)');
    if (stat.isDirectory()) throw failure('open', uri, 'EISDIR', 'it is a directory');
    position(fd);
    // A worker closes what it opened with node:fs when it ends; this one must outlive it.
    return new FdChannel({ fd: dupCloexec(fd), hasReturnPath: false, peer: formatMigrationUri(uri) });
  } finally {
    closeSync(fd);
  }
}

function skip(fd: number, uri: FileUri): void {
  const scratch = Buffer.allocUnsafe(Math.min(uri.offsetBytes, SKIP_BYTES));
  for (let skippedBytes = 0; skippedBytes < uri.offsetBytes; ) {
    const lengthBytes = Math.min(scratch.length, uri.offsetBytes - skippedBytes);
    const count = readSync(fd, scratch, 0, lengthBytes, null);
    if (count === 0) {
      throw failure('open', uri, 'EINVAL', `it has ${skippedBytes} bytes and ends before the offset`);
    }
    skippedBytes += count;
  }
}
