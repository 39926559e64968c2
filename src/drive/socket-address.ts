/**
 * Where the stream goes: what a destination says it listens at, and what the source must be told to reach it.
 *
 * A destination may be asked for any free port (`:0`) or for every address of its host (`0.0.0.0`): the first is known when it
 * listens, the second can only be guessed from where its monitor is.
 */
import type { QmpAddress } from '../qemu/qmp-address.ts';
import { formatMigrationUri, parseMigrationUri } from '../transport/parse-uri.ts';

const WILDCARDS: Readonly<Record<string, string>> = { '': '127.0.0.1', '0.0.0.0': '127.0.0.1', '::': '::1' };

/** A `socket-address` of `query-migrate` as a URI: QEMU's object, or our text; undefined for what has no URI. */
export function uriOfSocketAddress(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  if (typeof value !== 'object' || value === null) return undefined;
  const { type, host, port, path, cid } = value as Readonly<Record<string, unknown>>;
  if (type === 'inet' && typeof host === 'string') {
    return formatMigrationUri({ scheme: 'tcp', host, port: Number(port) });
  }
  if (type === 'unix' && typeof path === 'string') return `unix:${path}`;
  if (type === 'vsock') return `vsock:${cid}:${port}`;
  return undefined;
}

/** Whether two addresses are of one host, as far as one can tell: both are unix sockets, which we have opened. */
export function areLocal(source: QmpAddress, destination: QmpAddress): boolean {
  return source.kind === 'unix' && destination.kind === 'unix';
}

/**
 * What the source is told to connect to.
 *
 * @param listening where the destination listens
 * @throws {RangeError} if it listens at every address, and none can be guessed that the source reaches
 */
export function connectUriOf(listening: string, source: QmpAddress, destination: QmpAddress): string {
  if (!listening.startsWith('tcp:')) return listening;
  const uri = parseMigrationUri(listening);
  if (uri.scheme !== 'tcp') return listening;
  const own = WILDCARDS[uri.host];
  if (own === undefined) return listening;
  if (destination.kind === 'tcp') return formatMigrationUri({ ...uri, host: destination.host });
  if (areLocal(source, destination)) return formatMigrationUri({ ...uri, host: own });
  throw new RangeError(
    `The destination listens at every address of its host (${listening}): give one that the source reaches as --uri tcp:HOST:${uri.port}`,
  );
}
