/**
 * The objects of TLS that an operator has made, by their ids: credentials, and who may come.
 */
import { type Authorization, readListAuthorization, readSimpleAuthorization } from './authorization.ts';
import { checkObjectId, ObjectError, type ObjectProperties, PropertyReader } from './object-properties.ts';
import { type PskCredentials, readPskCredentials } from './psk-credentials.ts';
import { readX509Credentials, type TlsEndpoint, type X509Credentials } from './x509-credentials.ts';

export type TlsCredentials = X509Credentials | PskCredentials;
export type TlsObject = TlsCredentials | Authorization;

/** All that one end of a connection needs. Plain data: it goes to the thread that uses it. */
export interface TlsSettings {
  readonly credentials: TlsCredentials;
  /** Of a client: the name that the server's certificate must have; undefined: the host that it connects to. */
  readonly hostname: string | undefined;
  /** Of a server: who of the clients may come; undefined: all of them. */
  readonly authorization: Authorization | undefined;
}

/** Names, as parameters and options give them; an empty one is none. */
export interface TlsNames {
  readonly credentials: string;
  readonly hostname: string;
  readonly authorization: string;
}

const READERS: Readonly<Record<TlsObject['kind'], (id: string, reader: PropertyReader) => TlsObject>> = {
  'tls-creds-x509': readX509Credentials,
  'tls-creds-psk': readPskCredentials,
  'authz-simple': readSimpleAuthorization,
  'authz-list': readListAuthorization,
};

export const TLS_OBJECT_KINDS = Object.keys(READERS) as TlsObject['kind'][];

export class TlsObjects {
  readonly #objects = new Map<string, TlsObject>();

  get ids(): readonly string[] {
    return [...this.#objects.keys()];
  }

  /**
   * Makes an object; files are read now.
   *
   * @throws {ObjectError} if it cannot be made, or the id is taken
   */
  add(properties: ObjectProperties): TlsObject {
    const { 'qom-type': kind, id: givenId, ...others } = properties;
    if (kind === undefined) throw new ObjectError(`An object needs a type: ${TLS_OBJECT_KINDS.join(', ')}`);
    if (typeof kind !== 'string' || !Object.hasOwn(READERS, kind)) {
      throw new ObjectError(
        `There are no objects of type ${JSON.stringify(kind)}: ${TLS_OBJECT_KINDS.join(', ')}`,
      );
    }
    const id = checkObjectId(givenId);
    if (this.#objects.has(id)) throw new ObjectError(`There is an object "${id}" already`);
    const object = READERS[kind as TlsObject['kind']](id, new PropertyReader(`Object "${id}"`, others));
    this.#objects.set(id, object);
    return object;
  }

  /** Connections that use it go on. @throws {ObjectError} if there is none */
  remove(id: string): void {
    if (!this.#objects.delete(id)) throw new ObjectError(`There is no object "${id}"`);
  }

  /**
   * What one end of a connection needs.
   *
   * @returns undefined if no credentials are named: the connection is not protected
   * @throws {ObjectError} if an object is missing or does not fit
   */
  settings(
    endpoint: TlsEndpoint,
    { credentials: id, hostname, authorization }: TlsNames,
  ): TlsSettings | undefined {
    if (id === '') {
      if (endpoint === 'server' && authorization !== '')
        throw new ObjectError('tls-authz needs tls-creds: without them nobody can prove who he is');
      return undefined;
    }
    const credentials = this.#find(id, 'TLS credentials');
    if (!credentials.kind.startsWith('tls-creds-'))
      throw new ObjectError(`Object "${id}" holds no TLS credentials`);
    const { endpoint: made } = credentials as TlsCredentials;
    if (made !== endpoint) {
      throw new ObjectError(
        `TLS credentials "${id}" are those of a ${made}; this end is the ${endpoint}: make others with endpoint=${endpoint}`,
      );
    }
    return {
      credentials: credentials as TlsCredentials,
      hostname: hostname === '' || endpoint === 'server' ? undefined : hostname,
      authorization:
        endpoint === 'client' || authorization === ''
          ? undefined
          : this.#authorization(authorization, credentials),
    };
  }

  #authorization(id: string, credentials: TlsObject): Authorization {
    const found = this.#find(id, 'an authorization');
    if (!found.kind.startsWith('authz-')) throw new ObjectError(`Object "${id}" does not say who may come`);
    if (credentials.kind === 'tls-creds-x509' && !credentials.verifiesPeer) {
      throw new ObjectError(
        `tls-authz needs clients to be verified: "${credentials.id}" has verify-peer=off`,
      );
    }
    return found as Authorization;
  }

  #find(id: string, what: string): TlsObject {
    const object = this.#objects.get(id);
    if (object !== undefined) return object;
    throw new ObjectError(
      `There is no object "${id}" with ${what}; there are: ${this.ids.map((each) => `"${each}"`).join(', ') || 'none'}`,
    );
  }
}
