/**
 * Where `postcopy inspect` reads a stream from: a file, standard input, or what a destination would wait at.
 *
 *   PATH, file:PATH         from its beginning to its end
 *   -                       standard input
 *   tcp: unix: exec: fd:    waits for a source as `-incoming` does, and never answers it
 */
import { fstatSync, readSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { closeFd, dupCloexec, fdKind, readInto, setNonblocking, WOULD_BLOCK } from '../../linux/fd.ts';
import { mapAnonymous } from '../../linux/memory.ts';
import { PollEvent, PollSet } from '../../linux/poll.ts';
import { listenChannel } from '../../transport/listen.ts';
import { type MigrationUri, parseMigrationUri } from '../../transport/parse-uri.ts';

const BUFFER_BYTES = 1024 * 1024;
/** How long a read keeps signals of the process waiting. */
const TURN_MS = 50;

export interface StreamInput {
  readonly kind: ReturnType<typeof fdKind>;
  /** What stream byte 0 is in the file. */
  readonly fileOffset: number;
  /** What `read` reads into. */
  readonly buffer: Uint8Array;
  /** @returns bytes read, 0 at the end, or undefined if none came for now */
  read(position: number, lengthBytes: number): Promise<number | undefined>;
  /** Leaves out bytes of a file, at most up to its end. @returns how many, 0 of what is no file */
  skip(countBytes: number): number;
  /** Bytes from anywhere in a file; fewer at its end, none of what is no file. */
  readAt(offset: number, lengthBytes: number): Uint8Array;
  /** May be called twice. */
  close(): void;
}

/**
 * @param onWaiting told the address when a source must come first
 * @param signal ends the waiting with `ABORT_ERR`
 * @throws {UriError} {TransportError}
 */
export async function openStreamInput(
  target: string,
  onWaiting: (address: string) => void,
  signal: AbortSignal,
): Promise<StreamInput> {
  if (target === '-') return inputOf(dupCloexec(0), undefined);
  const uri: MigrationUri = /^(tcp|unix|exec|fd|file):/.test(target)
    ? parseMigrationUri(target)
    : { scheme: 'file', path: target, offsetBytes: 0 };
  const listener = await listenChannel(uri);
  try {
    if (uri.scheme === 'tcp' || uri.scheme === 'unix') onWaiting(listener.address);
    const channel = await listener.accept({ signal });
    return inputOf(channel.detach(), uri.scheme === 'file' ? uri.offsetBytes : undefined);
  } finally {
    listener.close();
  }
}

/** @param fileOffset undefined if only what comes next can be read */
function inputOf(fd: number, fileOffset: number | undefined): StreamInput {
  const kind = fdKind(fd);
  const memory = mapAnonymous(BUFFER_BYTES);
  const polls = new PollSet(1);
  let filePosition = fileOffset;
  let isOpen = true;
  if (kind !== 'file') setNonblocking(fd, true);
  return {
    kind,
    fileOffset: fileOffset ?? 0,
    buffer: memory.bytes,
    async read(position, lengthBytes) {
      if (filePosition !== undefined) {
        const count = readSync(fd, memory.bytes, position, lengthBytes, filePosition);
        filePosition += count;
        return count;
      }
      const count = readInto(fd, memory.address + BigInt(position), lengthBytes);
      if (count !== WOULD_BLOCK) return count;
      polls.set(0, fd, PollEvent.IN);
      polls.wait(TURN_MS);
      await sleep(0); // Signals of the process, and its output, get their turn.
      return undefined;
    },
    skip(countBytes) {
      if (filePosition === undefined) return 0;
      const skippedBytes = Math.min(countBytes, Math.max(0, fstatSync(fd).size - filePosition));
      filePosition += skippedBytes;
      return skippedBytes;
    },
    readAt(offset, lengthBytes) {
      if (filePosition === undefined) return new Uint8Array(0);
      const bytes = Buffer.alloc(Math.min(lengthBytes, Math.max(0, fstatSync(fd).size - offset)));
      return bytes.subarray(0, readSync(fd, bytes, 0, bytes.length, offset));
    },
    close() {
      if (!isOpen) return;
      isOpen = false;
      closeFd(fd);
      polls.close();
      memory.unmap();
    },
  };
}
