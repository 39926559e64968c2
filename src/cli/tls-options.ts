/**
 * Options of TLS that commands share: objects, and which of them protect a connection.
 */
import { type ObjectProperties, parseObjectProperties } from '../tls/object-properties.ts';
import { TlsObjects } from '../tls/tls-objects.ts';
import type { TlsEndpoint } from '../tls/x509-credentials.ts';
import type { TlsOptions } from '../transport/tls-channel.ts';
import { printMessage } from './end-process.ts';
import { UsageError } from './usage-error.ts';

/** @throws {UsageError} */
export function parseObjects(texts: readonly string[] = []): readonly ObjectProperties[] {
  return texts.map((text) => inWords('--object', () => parseObjectProperties(text)));
}

/** Names, as options give them. */
export interface TlsOptionNames {
  readonly credentials?: string | undefined;
  readonly hostname?: string | undefined;
  readonly authorization?: string | undefined;
}

/** Makes the objects of a command line, and answers which of them protect its connections. */
export class CommandTls {
  readonly #objects = new TlsObjects();

  /** @throws {UsageError} if an object cannot be made */
  constructor(texts: readonly string[] | undefined) {
    for (const properties of parseObjects(texts)) inWords('--object', () => this.#objects.add(properties));
  }

  /**
   * @param option the name of the option with the credentials, for messages
   * @returns undefined if there are no credentials
   * @throws {UsageError} if they do not fit
   */
  of(endpoint: TlsEndpoint, option: string, names: TlsOptionNames): TlsOptions | undefined {
    const { credentials = '', hostname = '', authorization = '' } = names;
    const settings = inWords(option, () =>
      this.#objects.settings(endpoint, { credentials, hostname, authorization }),
    );
    return settings && { settings, onMessage: printMessage };
  }
}

function inWords<Value>(option: string, act: () => Value): Value {
  try {
    return act();
  } catch (error) {
    throw error instanceof RangeError
      ? new UsageError(`${option}: ${error.message}`, { cause: error })
      : error;
  }
}
