/**
 * `tls-creds-psk`: keys that both sides have, from `keys.psk` in a folder.
 *
 *   USERNAME:KEY in hexadecimal, one a line, as `psktool` writes them
 *
 * A server takes every one of them; a client uses the one of its `username`.
 */
import { join } from 'node:path';
import { readCredentialFile } from './credential-files.ts';
import { ObjectError, type PropertyReader } from './object-properties.ts';
import { TLS_ENDPOINTS, type TlsEndpoint } from './x509-credentials.ts';

/** Plain data: it goes to the thread that uses it. */
export interface PskCredentials {
  readonly kind: 'tls-creds-psk';
  readonly id: string;
  readonly endpoint: TlsEndpoint;
  /** Of a client: who it says it is. */
  readonly username: string;
  /** User names to keys in hexadecimal; of a client its own only. */
  readonly keys: Readonly<Record<string, string>>;
}

/** QEMU's. */
const DEFAULT_USERNAME = 'qemu';
/** OpenSSL takes no longer ones. */
const MAX_USERNAME_BYTES = 128;
const MAX_KEY_BYTES = 256;

/** @throws {ObjectError} if the file is missing or not of that form, or the user has no key */
export function readPskCredentials(id: string, reader: PropertyReader): PskCredentials {
  const dir = reader.text('dir');
  const endpoint = reader.oneOf('endpoint', TLS_ENDPOINTS, 'client');
  const username = reader.optionalText('username');
  if (endpoint === 'server' && username !== undefined) {
    throw reader.error('property "username" is for clients: a server takes every user in keys.psk');
  }
  if (!reader.switch('verify-peer', true)) {
    throw reader.error('verify-peer=off makes no sense: whoever lacks the key cannot connect');
  }
  reader.refuse('priority', 'it is in the language of GnuTLS, and TLS here is of OpenSSL');
  reader.end();
  try {
    const keys = parseKeys(readCredentialFile(dir, 'keys.psk'), join(dir, 'keys.psk'));
    const own = username ?? DEFAULT_USERNAME;
    if (endpoint === 'server') return { kind: 'tls-creds-psk', id, endpoint, username: own, keys };
    const key = Object.hasOwn(keys, own) ? keys[own] : undefined;
    if (key === undefined) {
      throw new ObjectError(
        `"${join(dir, 'keys.psk')}" has no key of the user "${own}" (username=NAME names another)`,
      );
    }
    return { kind: 'tls-creds-psk', id, endpoint, username: own, keys: { [own]: key } };
  } catch (error) {
    throw error instanceof ObjectError ? reader.error(error.message, error) : error;
  }
}

/** @throws {ObjectError} naming the line, never its key */
export function parseKeys(text: string, path: string): Record<string, string> {
  const keys: Record<string, string> = Object.create(null);
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    if (line === '') continue;
    const [, username = '', key = ''] = /^([^:]+):((?:[0-9a-f]{2})+)$/i.exec(line) ?? [];
    const isFine =
      username !== '' && Buffer.byteLength(username) <= MAX_USERNAME_BYTES && key.length <= 2 * MAX_KEY_BYTES;
    if (!isFine)
      throw new ObjectError(`"${path}", line ${index + 1}: must be USERNAME:KEY, the key in hexadecimal`);
    keys[username] = key;
  }
  if (Object.keys(keys).length === 0) throw new ObjectError(`"${path}" holds no key`);
  return { ...keys };
}
