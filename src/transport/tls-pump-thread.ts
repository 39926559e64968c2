/**
 * Thread of a TLS connection: a worker that shakes hands and then pumps (tls-pump.ts). One for each connection, so that
 * urgent bytes do not wait for others to be encrypted.
 *
 *   in:  { kind: 'end' }
 *   out: { kind: 'taken' }, then { kind: 'secure', fd } | { kind: 'failed', … }, then perhaps { kind: 'broken', … }
 *
 * It ends by itself when both ends are closed.
 */
import { isIP, Socket } from 'node:net';
import {
  type ConnectionOptions,
  checkServerIdentity,
  connect,
  createServer,
  type SecureContextOptions,
  type TLSSocket,
} from 'node:tls';
import { parentPort, workerData } from 'node:worker_threads';
import { scheduleThread } from '../linux/scheduling.ts';
import { setPeerTimeout } from '../linux/socket-options.ts';
import { isAllowed } from '../tls/authorization.ts';
import { distinguishedName } from '../tls/distinguished-name.ts';
import type { PskCredentials } from '../tls/psk-credentials.ts';
import type { TlsSettings } from '../tls/tls-objects.ts';
import type { X509Credentials } from '../tls/x509-credentials.ts';
import { RawStream } from './raw-stream.ts';
import { codeOf, explainTlsFailure, TlsFailure } from './tls-failure.ts';
import type { TlsPumpData, TlsPumpNotice, TlsPumpOrder } from './tls-messages.ts';
import { TlsPump } from './tls-pump.ts';

/** Suites with a pre-shared key of TLS 1.2, forward secret ones first, and the one of TLS 1.3 that such a key can have. */
const PSK_CIPHERS = [
  'TLS_AES_128_GCM_SHA256',
  'ECDHE-PSK-CHACHA20-POLY1305',
  'DHE-PSK-AES256-GCM-SHA384',
  'DHE-PSK-AES128-GCM-SHA256',
  'ECDHE-PSK-AES128-CBC-SHA256',
  'PSK-AES256-GCM-SHA384',
  'PSK-AES128-GCM-SHA256',
].join(':');

const MIN_VERSION = 'TLSv1.2';
/** How much may wait in each direction at each step: less makes the steps wait for each other. */
const WRITE_AHEAD = { highWaterMark: 256 * 1024 };

/** Words for it are found by who we are. */
const CLOSED = Object.assign(new Error('the other side closed the connection'), { code: 'ECONNRESET' });

function post(notice: TlsPumpNotice): void {
  parentPort?.postMessage(notice);
}

async function run({ fd, settings, hostname, handshakeMs, peerTimeoutMs }: TlsPumpData): Promise<void> {
  const socket = new Socket({ fd, allowHalfOpen: true });
  post({ kind: 'taken' });
  const raw = new RawStream(socket);
  let hasTlsEnded = false;
  let isCutOff = false;
  // The first of all listeners: what came has been decrypted by now, and TLS does not know yet that the network has ended.
  raw.once('end', () => {
    isCutOff = !hasTlsEnded;
  });
  try {
    setPeerTimeout(fd, peerTimeoutMs);
    const shake = settings.credentials.endpoint === 'client' ? shakeAsClient : shakeAsServer;
    const onEnd = () => {
      hasTlsEnded = true;
    };
    const tls = await inTime(handshakeMs, shake(raw, settings, hostname, onEnd));
    const pump = new TlsPump(raw, tls, {
      isCutOff: () => isCutOff,
      broken: (error) => post({ kind: 'broken', text: explainTlsFailure(error, settings) }),
    });
    pump.start();
    // Nobody must take the end of this thread for the end of the stream.
    process.once('uncaughtException', (error) => pump.fail(error));
    parentPort?.on('message', (_: TlsPumpOrder) => pump.endNow());
    parentPort?.unref(); // It is the connection that keeps this thread alive.
    post({ kind: 'secure', fd: pump.engineFd });
  } catch (error) {
    raw.destroy();
    post({ kind: 'failed', code: codeOf(error), text: explainTlsFailure(error, settings) });
  }
}

async function inTime(limitMs: number, tls: Promise<TLSSocket>): Promise<TLSSocket> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<never>((_, reject) => {
    const text = `the handshake of TLS was not done within ${limitMs / 1000} s: does the other side speak TLS (tls-creds)?`;
    timer = setTimeout(() => reject(new TlsFailure('ETIMEDOUT', text)), limitMs);
  });
  try {
    return await Promise.race([tls, timeout]);
  } finally {
    clearTimeout(timer);
  }
}

/** Node pushes `null` when TLS has said that it ends, and when the network has ended. */
function watchEnd(tls: TLSSocket, onEnd: () => void): void {
  const push = tls.push.bind(tls);
  tls.push = (chunk, encoding) => {
    if (chunk === null) onEnd();
    return push(chunk, encoding);
  };
}

function shakeAsClient(
  raw: RawStream,
  { credentials }: TlsSettings,
  hostname: string | undefined,
  onEnd: () => void,
): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const tls = connect({
      socket: raw,
      minVersion: MIN_VERSION,
      ...WRITE_AHEAD,
      ...(credentials.kind === 'tls-creds-x509'
        ? x509ClientOptions(credentials, hostname)
        : pskClientOptions(credentials)),
    });
    watchEnd(tls, onEnd);
    tls.once('secureConnect', () => resolve(tls));
    tls.once('error', reject);
    rejectWith(raw, reject);
  });
}

/** Node does not tell of a connection that ends while hands are shaken. */
function rejectWith(raw: RawStream, reject: (error: Error) => void): void {
  raw.once('error', reject);
  for (const event of ['end', 'close']) raw.once(event, () => setImmediate(reject, CLOSED)); // TLS may know more.
}

function x509ClientOptions(credentials: X509Credentials, hostname = ''): ConnectionOptions {
  return {
    ...x509Context(credentials),
    rejectUnauthorized: credentials.verifiesPeer,
    checkServerIdentity: (_, certificate) => checkServerIdentity(hostname, certificate),
    ...(hostname !== '' && isIP(hostname) === 0 && { servername: hostname }),
  };
}

function pskClientOptions(credentials: PskCredentials): ConnectionOptions {
  const psk = keyOf(credentials, credentials.username);
  return {
    ciphers: PSK_CIPHERS,
    // Nobody is trusted for a certificate: a server that lacks the key might try with one.
    ca: [],
    pskCallback: () => (psk === undefined ? null : { identity: credentials.username, psk }),
    checkServerIdentity: (_, certificate) =>
      certificate.raw === undefined
        ? undefined
        : new TlsFailure(
            'NO_PSK',
            'the server has shown a certificate instead of knowing the pre-shared key',
          ),
  };
}

function shakeAsServer(
  raw: RawStream,
  { credentials, authorization }: TlsSettings,
  _hostname: string | undefined,
  onEnd: () => void,
): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    let user: string | undefined;
    const server = createServer({
      minVersion: MIN_VERSION,
      ...WRITE_AHEAD,
      ...(credentials.kind === 'tls-creds-x509'
        ? // What is wrong with a certificate is looked at here, where there are words for it.
          { ...x509Context(credentials), requestCert: credentials.verifiesPeer, rejectUnauthorized: false }
        : {
            ciphers: PSK_CIPHERS,
            pskCallback: (_: TLSSocket, name: string) => {
              user = name;
              return keyOf(credentials, name) ?? null;
            },
          }),
    });
    server.on('secureConnection', (tls) => {
      watchEnd(tls, onEnd);
      tls.once('error', reject);
      try {
        const identity = credentials.kind === 'tls-creds-x509' ? verifiedName(tls, credentials) : user;
        if (authorization !== undefined && !isAllowed(authorization, identity ?? '')) {
          throw new TlsFailure('NOT_AUTHORIZED', `"${identity}" may not come, says "${authorization.id}"`);
        }
        resolve(tls);
      } catch (error) {
        reject(error);
      }
    });
    server.on('tlsClientError', (error) => {
      const isStranger =
        credentials.kind === 'tls-creds-psk' && user !== undefined && keyOf(credentials, user) === undefined;
      reject(
        isStranger ? new TlsFailure('UNKNOWN_USER', `keys.psk has no key of the user "${user}"`) : error,
      );
    });
    rejectWith(raw, reject);
    server.emit('connection', raw);
  });
}

/** @returns the name on the client's certificate; undefined if nobody asked for one. @throws if it is not to be believed */
function verifiedName(tls: TLSSocket, { verifiesPeer }: X509Credentials): string | undefined {
  if (!verifiesPeer) return undefined;
  const certificate = tls.getPeerX509Certificate();
  if (certificate === undefined) {
    throw new TlsFailure(
      'NO_CERTIFICATE',
      'the client has no certificate: it needs client-cert.pem and client-key.pem (verify-peer=off here takes anybody)',
    );
  }
  const name = distinguishedName(certificate);
  if (tls.authorized) return name;
  const code = String(tls.authorizationError);
  throw Object.assign(new Error(`its verification failed, of "${name}"`), { code });
}

function x509Context(credentials: X509Credentials): SecureContextOptions {
  const { authorities, revocations, certificate, key, dhParameters } = credentials;
  return {
    ca: authorities,
    ...(revocations !== undefined && { crl: revocations }),
    ...(certificate !== undefined && key !== undefined && { cert: certificate, key }),
    ...(dhParameters !== undefined && { dhparam: dhParameters }),
  };
}

function keyOf({ keys }: PskCredentials, user: string): Buffer | undefined {
  return Object.hasOwn(keys, user) ? Buffer.from(keys[user] as string, 'hex') : undefined;
}

// A guest may wait for what passes here.
scheduleThread({ sliceUs: 200, nice: -10 });
await run(workerData as TlsPumpData);
