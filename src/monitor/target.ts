/**
 * Where a monitor is served, as the command line says it: `stdio`, `unix:PATH`, `none`.
 */

export type MonitorTarget =
  | { readonly kind: 'stdio' }
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'none' };

/** Longest path of a unix socket, in bytes: `sun_path` without its final NUL. */
export const MAX_SOCKET_PATH_BYTES = 107;

/** What people are used to write behind the path for QEMU; it is how we serve anyway. */
const QEMU_OPTIONS = ['server', 'server=on', 'nowait', 'wait=off'];

/** @throws {RangeError} if the text is no target */
export function parseMonitorTarget(text: string): MonitorTarget {
  if (text === 'stdio' || text === 'none') return { kind: text };
  if (!text.startsWith('unix:')) {
    throw new RangeError(`Monitor must be stdio, unix:PATH or none, got "${text}"`);
  }
  const [path = '', ...options] = text.slice('unix:'.length).split(',');
  const unknown = options.find((option) => !QEMU_OPTIONS.includes(option));
  if (unknown !== undefined) throw new RangeError(`Monitor "${text}" has an unknown option "${unknown}"`);
  if (path === '') throw new RangeError(`Monitor "${text}" lacks a path`);
  const lengthBytes = Buffer.byteLength(path);
  if (lengthBytes > MAX_SOCKET_PATH_BYTES) {
    throw new RangeError(
      `Path of a unix socket must be at most ${MAX_SOCKET_PATH_BYTES} bytes, got ${lengthBytes}: "${path}"`,
    );
  }
  return { kind: 'unix', path };
}
