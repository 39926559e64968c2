/**
 * Where a QMP monitor is: `unix:PATH`, `tcp:HOST:PORT`, or a bare path of a unix socket.
 *
 * QEMU's own options behind the path or port (`,server=on,wait=off`) are left out, so that what was given to `-qmp` can be
 * given here as it is.
 */

export type QmpAddress =
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number };

/** Longest path of a unix socket, in bytes: `sun_path` without its final NUL. */
const MAX_SOCKET_PATH_BYTES = 107;
const QEMU_OPTIONS = ['server', 'server=on', 'nowait', 'wait=off', 'wait=on', 'nodelay=on', 'nodelay'];
const FORMS = 'expected unix:PATH, tcp:HOST:PORT or the path of a unix socket';

/** @throws {RangeError} if the text is no address */
export function parseQmpAddress(text: string): QmpAddress {
  const bare = withoutOptions(text);
  if (bare.startsWith('tcp:')) return parseTcp(text, bare.slice('tcp:'.length));
  const path = bare.startsWith('unix:') ? bare.slice('unix:'.length) : bare;
  if (path === '') throw new RangeError(`Monitor "${text}" lacks a path: ${FORMS}`);
  if (path.includes('\0')) throw new RangeError('The path of a monitor contains a NUL byte');
  const lengthBytes = Buffer.byteLength(path);
  if (lengthBytes > MAX_SOCKET_PATH_BYTES) {
    throw new RangeError(
      `Path of a unix socket must be at most ${MAX_SOCKET_PATH_BYTES} bytes, got ${lengthBytes}: "${path}"`,
    );
  }
  return { kind: 'unix', path };
}

/** The text that `parseQmpAddress` reads back as the same address. */
export function formatQmpAddress(address: QmpAddress): string {
  if (address.kind === 'unix') return `unix:${address.path}`;
  return `tcp:${address.host.includes(':') ? `[${address.host}]` : address.host}:${address.port}`;
}

function withoutOptions(text: string): string {
  const parts = text.split(',');
  while (parts.length > 1 && QEMU_OPTIONS.includes(parts.at(-1) as string)) parts.pop();
  return parts.join(',');
}

function parseTcp(text: string, rest: string): QmpAddress {
  const [, bracketed, plain, port] = /^(?:\[([\da-f:.%\w]+)\]|([^:[\]]*)):(\d{1,5})$/i.exec(rest) ?? [];
  const host = bracketed ?? plain;
  if (host === undefined || port === undefined) throw new RangeError(`Monitor "${text}" is wrong: ${FORMS}`);
  if (Number(port) < 1 || Number(port) > 65535) {
    throw new RangeError(`Monitor "${text}" is wrong: the port must be a number from 1 to 65535`);
  }
  return { kind: 'tcp', host: host === '' ? '127.0.0.1' : host, port: Number(port) };
}
