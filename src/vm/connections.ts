/**
 * Opens the connections of a virtual machine's migrations as its parameters want them: plain, or protected by TLS.
 *
 * The parameters of the moment count, so a recovery may be protected otherwise than the migration was.
 */
import type { Parameters } from '../migration/parameters.ts';
import { ObjectError } from '../tls/object-properties.ts';
import { TlsObjects } from '../tls/tls-objects.ts';
import type { TlsEndpoint } from '../tls/x509-credentials.ts';
import type { Channel } from '../transport/channel.ts';
import { connectChannel } from '../transport/connect.ts';
import { whyExposed } from '../transport/exposed-address.ts';
import { listenChannel } from '../transport/listen.ts';
import type { Listener } from '../transport/listener.ts';
import type { TlsOptions } from '../transport/tls-channel.ts';
import { VmError } from './vm.ts';

export class Connections {
  readonly objects = new TlsObjects();
  readonly #onMessage: (text: string) => void;
  #hasWarned = false;

  /** @param onMessage told of connections that are refused or break for a reason of TLS, and of an address without it */
  constructor(onMessage: (text: string) => void) {
    this.#onMessage = onMessage;
  }

  /** @throws {UriError} {TransportError}; {VmError} if an object is missing or does not fit */
  async connect(uri: string, parameters: Parameters, signal: AbortSignal): Promise<Channel> {
    return await connectChannel(uri, { signal, tls: this.#tls('client', parameters) });
  }

  /** @throws {UriError} {TransportError}; {VmError} if an object is missing or does not fit */
  async listen(uri: string, parameters: Parameters): Promise<Listener> {
    const tls = this.#tls('server', parameters);
    const listener = await listenChannel(uri, { tls });
    const warning = tls === undefined ? whyExposed(listener.address) : undefined;
    if (warning !== undefined && !this.#hasWarned) this.#onMessage(warning);
    this.#hasWarned ||= warning !== undefined;
    return listener;
  }

  #tls(endpoint: TlsEndpoint, parameters: Parameters): TlsOptions | undefined {
    try {
      const settings = this.objects.settings(endpoint, {
        credentials: parameters['tls-creds'],
        hostname: parameters['tls-hostname'],
        authorization: parameters['tls-authz'],
      });
      const peerTimeoutMs = parameters['x-peer-timeout'];
      return settings && { settings, peerTimeoutMs, onMessage: this.#onMessage };
    } catch (error) {
      throw error instanceof ObjectError ? new VmError(error.message, { cause: error }) : error;
    }
  }
}
