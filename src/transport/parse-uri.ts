/**
 * Migration URIs, in QEMU's forms: where a stream goes to or comes from.
 *
 *   tcp:HOST:PORT  tcp:[IPV6]:PORT   an empty HOST listens on every address, PORT 0 on a free port
 *   unix:PATH                        a stream socket
 *   fd:N                             a descriptor this process was started with
 *   exec:COMMAND                     run by /bin/sh; the stream goes to its stdin, or comes from its stdout
 *   file:PATH[,offset=SIZE]          SIZE in bytes, decimal or 0x…, or decimal with the suffix K, M, G or T
 */
import { isIPv6 } from 'node:net';

export type MigrationUri =
  | { readonly scheme: 'tcp'; readonly host: string; readonly port: number }
  | { readonly scheme: 'unix'; readonly path: string }
  | { readonly scheme: 'fd'; readonly fd: number }
  | { readonly scheme: 'exec'; readonly command: string }
  | { readonly scheme: 'file'; readonly path: string; readonly offsetBytes: number };

export type UriScheme = MigrationUri['scheme'];

const FORMS = 'tcp:HOST:PORT, tcp:[IPV6]:PORT, unix:PATH, fd:N, exec:COMMAND or file:PATH[,offset=SIZE]';
const OFFSET_OPTION = ',offset=';
/** `sun_path` of `struct sockaddr_un` has 108 bytes, the last one for the terminating NUL. */
const MAX_SOCKET_PATH_BYTES = 107;
const MAX_FD = 0x7fffffff;
const SUFFIX_BYTES: Readonly<Record<string, number>> = {
  '': 1,
  B: 1,
  K: 2 ** 10,
  M: 2 ** 20,
  G: 2 ** 30,
  T: 2 ** 40,
};

/** The text is not a migration URI. */
export class UriError extends SyntaxError {
  override readonly name = 'UriError';
  /** The refused text. */
  readonly uri: string;

  constructor(uri: string, problem: string) {
    super(`Bad migration URI "${uri}": ${problem}; expected ${FORMS}`);
    this.uri = uri;
  }
}

/** @throws {UriError} */
export function parseMigrationUri(text: string): MigrationUri {
  const colon = text.indexOf(':');
  if (colon === -1) throw new UriError(text, 'there is no scheme');
  if (text.includes('\0')) throw new UriError(text, 'it contains a NUL byte');

  const scheme = text.slice(0, colon);
  const rest = text.slice(colon + 1);
  switch (scheme) {
    case 'tcp':
      return parseTcp(text, rest);
    case 'unix':
      return parseUnix(text, rest);
    case 'fd':
      if (!/^\d+$/.test(rest) || Number(rest) > MAX_FD) {
        throw new UriError(text, `the descriptor must be a number from 0 to ${MAX_FD}, got "${rest}"`);
      }
      return { scheme, fd: Number(rest) };
    case 'exec':
      if (rest.trim() === '') throw new UriError(text, 'the command is empty');
      return { scheme, command: rest };
    case 'file':
      return parseFile(text, rest);
    default:
      throw new UriError(text, `the scheme "${scheme}" is not known`);
  }
}

/** The text that `parseMigrationUri` reads back as the same URI. */
export function formatMigrationUri(uri: MigrationUri): string {
  switch (uri.scheme) {
    case 'tcp':
      return `tcp:${uri.host.includes(':') ? `[${uri.host}]` : uri.host}:${uri.port}`;
    case 'unix':
      return `unix:${uri.path}`;
    case 'fd':
      return `fd:${uri.fd}`;
    case 'exec':
      return `exec:${uri.command}`;
    case 'file':
      return `file:${uri.path}${uri.offsetBytes === 0 ? '' : `${OFFSET_OPTION}${uri.offsetBytes}`}`;
  }
}

function parseTcp(text: string, rest: string): MigrationUri {
  const [, bracketed, plain, port] = /^(?:\[(.*)\]|(.*)):(.*)$/s.exec(rest) ?? [];
  if (port === undefined) throw new UriError(text, 'the port is missing');
  if (!/^\d{1,5}$/.test(port) || Number(port) > 65535) {
    throw new UriError(text, `the port must be a number from 0 to 65535, got "${port}"`);
  }
  if (bracketed !== undefined && !isIPv6(bracketed)) {
    throw new UriError(text, `brackets hold an IPv6 address, got "${bracketed}"`);
  }
  if (plain?.includes(':')) {
    throw new UriError(text, `an IPv6 address goes in brackets, got "${plain}"`);
  }
  if (plain !== undefined && /[\s/,[\]]/.test(plain)) {
    throw new UriError(text, `the host must be a name or an address, got "${plain}"`);
  }
  return { scheme: 'tcp', host: bracketed ?? plain ?? '', port: Number(port) };
}

function parseUnix(text: string, path: string): MigrationUri {
  if (path === '') throw new UriError(text, 'the path is empty');
  const lengthBytes = Buffer.byteLength(path);
  if (lengthBytes > MAX_SOCKET_PATH_BYTES) {
    throw new UriError(
      text,
      `the path of a socket has at most ${MAX_SOCKET_PATH_BYTES} bytes, got ${lengthBytes}`,
    );
  }
  return { scheme: 'unix', path };
}

function parseFile(text: string, rest: string): MigrationUri {
  const option = rest.indexOf(OFFSET_OPTION);
  const path = option === -1 ? rest : rest.slice(0, option);
  if (path === '') throw new UriError(text, 'the path is empty');

  const offset = option === -1 ? '0' : rest.slice(option + OFFSET_OPTION.length);
  const offsetBytes = parseSize(offset);
  if (offsetBytes === undefined) {
    throw new UriError(text, `the offset must be a size such as 4096, 0x1000 or 64K, got "${offset}"`);
  }
  return { scheme: 'file', path, offsetBytes };
}

function parseSize(text: string): number | undefined {
  const [, hex, decimal, suffix = ''] = /^(?:(0x[0-9a-f]+)|(\d+)([bkmgt]?))$/i.exec(text) ?? [];
  const sizeBytes = Number(hex ?? decimal) * (SUFFIX_BYTES[suffix.toUpperCase()] ?? Number.NaN);
  return Number.isSafeInteger(sizeBytes) ? sizeBytes : undefined;
}
