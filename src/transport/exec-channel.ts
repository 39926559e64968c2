/**
 * The `exec:` transport: a pipe to or from a command run by `/bin/sh -c`.
 *
 * A source writes to the command's stdin, and the command sees the end when the channel is closed. A destination reads
 * its stdout. All else that the command prints goes to our stderr. The command is never killed: when the channel
 * closes, it meets the end of its input, or SIGPIPE.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeFd, pipeCloexec, setNonblocking } from '../linux/fd.ts';
import { type Channel, FdChannel } from './channel.ts';
import { formatMigrationUri, type MigrationUri } from './parse-uri.ts';
import { TransportError } from './transport-error.ts';

const STDERR = 2;

/** @throws system errors of pipe2(2) and of starting the shell */
export async function openCommand(
  uri: MigrationUri & { scheme: 'exec' },
  direction: 'read' | 'write',
): Promise<Channel> {
  const [readFd, writeFd] = pipeCloexec();
  const [ourFd, commandFd] = direction === 'write' ? [writeFd, readFd] : [readFd, writeFd];
  try {
    setNonblocking(ourFd, true);
    const finished = await start(uri, direction, commandFd);
    return new FdChannel({ fd: ourFd, hasReturnPath: false, peer: formatMigrationUri(uri), finished });
  } catch (error) {
    closeFd(ourFd);
    throw error;
  } finally {
    closeFd(commandFd);
  }
}

async function start(
  uri: MigrationUri & { scheme: 'exec' },
  direction: 'read' | 'write',
  commandFd: number,
): Promise<() => Promise<void>> {
  const child = spawn('/bin/sh', ['-c', uri.command], {
    stdio: direction === 'write' ? [commandFd, STDERR, STDERR] : ['ignore', commandFd, STDERR],
  });
  const outcome = new Promise<TransportError | undefined>((resolve) => {
    child.once('exit', (code, signal) => {
      const ending = signal === null ? `exited with code ${code}` : `was ended by ${signal}`;
      resolve(
        code === 0
          ? undefined
          : new TransportError(
              `Command "${uri.command}" ${ending}`,
              'COMMAND_FAILED',
              formatMigrationUri(uri),
            ),
      );
    });
  });
  await once(child, 'spawn');
  child.unref();

  return async () => {
    child.ref();
    const error = await outcome;
    if (error !== undefined) throw error;
  };
}
