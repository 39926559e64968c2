/**
 * `tls-creds-x509`: certificates, from a folder laid out as QEMU wants it.
 *
 *   ca-cert.pem                     whom to trust: the authorities that sign the other side's certificate
 *   ca-crl.pem                      certificates that are not valid any more (optional)
 *   server-cert.pem server-key.pem  who we are where a migration arrives
 *   client-cert.pem client-key.pem  who we are where it leaves (optional; needed if the other side verifies)
 *   dh-params.pem                   parameters of old key exchanges (optional, servers)
 */
import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { join } from 'node:path';
import { readCredentialFile, readOptionalFile } from './credential-files.ts';
import { ObjectError, type PropertyReader } from './object-properties.ts';

export type TlsEndpoint = 'server' | 'client';
export const TLS_ENDPOINTS = ['server', 'client'] as const satisfies readonly TlsEndpoint[];

/** Plain data: it goes to the thread that uses it. All files as their PEM text. */
export interface X509Credentials {
  readonly kind: 'tls-creds-x509';
  readonly id: string;
  readonly endpoint: TlsEndpoint;
  /** Whether the other side must show a certificate that an authority of ours has signed. */
  readonly verifiesPeer: boolean;
  readonly authorities: string;
  readonly revocations: string | undefined;
  readonly certificate: string | undefined;
  readonly key: string | undefined;
  readonly dhParameters: string | undefined;
}

/** Object identifiers of the extended key usages that say what a certificate is for. */
const USAGE = { server: '1.3.6.1.5.5.7.3.1', client: '1.3.6.1.5.5.7.3.2' } as const;
const PEM_CERTIFICATE = /-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g;

/** @throws {ObjectError} if a file is missing or a certificate cannot be used */
export function readX509Credentials(id: string, reader: PropertyReader): X509Credentials {
  const dir = reader.text('dir');
  const endpoint = reader.oneOf('endpoint', TLS_ENDPOINTS, 'client');
  const verifiesPeer = reader.switch('verify-peer', true);
  const isChecked = reader.switch('sanity-check', true);
  reader.refuse('passwordid', 'keep the key in a file that only its user can read, without a password');
  reader.refuse('priority', 'it is in the language of GnuTLS, and TLS here is of OpenSSL');
  reader.end();
  try {
    const authorities = readCredentialFile(dir, 'ca-cert.pem');
    const isServer = endpoint === 'server';
    const certificate = isServer
      ? readCredentialFile(dir, 'server-cert.pem')
      : readOptionalFile(dir, 'client-cert.pem');
    const key =
      certificate === undefined
        ? undefined
        : readCredentialFile(dir, isServer ? 'server-key.pem' : 'client-key.pem');
    const trusted = parseCertificates(authorities, join(dir, 'ca-cert.pem'));
    if (certificate !== undefined && key !== undefined) {
      checkOwnCertificate({ certificate, key, trusted, endpoint, dir, isChecked });
    }
    return {
      kind: 'tls-creds-x509',
      id,
      endpoint,
      verifiesPeer,
      authorities,
      revocations: readOptionalFile(dir, 'ca-crl.pem'),
      certificate,
      key,
      dhParameters: isServer ? readOptionalFile(dir, 'dh-params.pem') : undefined,
    };
  } catch (error) {
    throw error instanceof ObjectError ? reader.error(error.message, error) : error;
  }
}

function parseCertificates(pem: string, path: string): X509Certificate[] {
  const texts = pem.match(PEM_CERTIFICATE) ?? [];
  if (texts.length === 0) throw new ObjectError(`"${path}" holds no certificate in PEM form`);
  try {
    return texts.map((text) => new X509Certificate(text));
  } catch (error) {
    throw new ObjectError(`"${path}" holds a certificate that cannot be read: ${(error as Error).message}`);
  }
}

/** What nobody would believe, or nobody can use, is found before the first connection. */
function checkOwnCertificate(own: {
  readonly certificate: string;
  readonly key: string;
  readonly trusted: readonly X509Certificate[];
  readonly endpoint: TlsEndpoint;
  readonly dir: string;
  readonly isChecked: boolean;
}): void {
  const { endpoint, dir, trusted } = own;
  const path = join(dir, `${endpoint}-cert.pem`);
  const keyPath = join(dir, `${endpoint}-key.pem`);
  const [leaf, ...chain] = parseCertificates(own.certificate, path) as [X509Certificate];
  let key: KeyObject;
  try {
    key = createPrivateKey(own.key);
  } catch (error) {
    throw new ObjectError(
      `"${keyPath}" is no private key that can be read: ${(error as Error).message} (keys with a password are not supported)`,
    );
  }
  if (!leaf.checkPrivateKey(key)) throw new ObjectError(`"${keyPath}" is not the key of "${path}"`);
  if (!own.isChecked) return;
  for (const [file, certificates] of [
    [path, [leaf]],
    [join(dir, 'ca-cert.pem'), trusted.length === 1 ? trusted : []],
  ] as const) {
    for (const certificate of certificates) checkDates(certificate, file);
  }
  const usages = leaf.keyUsage as readonly string[] | undefined;
  if (usages !== undefined && !usages.includes(USAGE[endpoint])) {
    throw new ObjectError(
      `"${path}" is not made for a TLS ${endpoint}: its extended key usage must have ${endpoint}Auth`,
    );
  }
  if (!isSignedByOneOf(leaf, [...chain], trusted)) {
    throw new ObjectError(`"${path}" is not signed by an authority in "${join(dir, 'ca-cert.pem')}"`);
  }
}

function checkDates(certificate: X509Certificate, path: string): void {
  const now = Date.now();
  if (Date.parse(certificate.validTo) < now)
    throw new ObjectError(`"${path}" has expired on ${certificate.validTo}: make a new one`);
  if (Date.parse(certificate.validFrom) > now) {
    throw new ObjectError(
      `"${path}" is valid only from ${certificate.validFrom}: is the clock of this host right?`,
    );
  }
}

/** @param chain certificates in between, from the file of the first one */
function isSignedByOneOf(
  certificate: X509Certificate,
  chain: X509Certificate[],
  trusted: readonly X509Certificate[],
): boolean {
  if (trusted.some((authority) => isIssuer(authority, certificate))) return true;
  const index = chain.findIndex((link) => isIssuer(link, certificate));
  const [next] = index < 0 ? [] : chain.splice(index, 1); // Each is followed once, so that a circle ends.
  return next !== undefined && isSignedByOneOf(next, chain, trusted);
}

function isIssuer(authority: X509Certificate, certificate: X509Certificate): boolean {
  return certificate.checkIssued(authority) && certificate.verify(authority.publicKey);
}
