/**
 * Why a TLS connection failed, in words that say what to look at.
 */
import type { TlsSettings } from '../tls/tls-objects.ts';

/** Our own findings, beside those of OpenSSL. */
export class TlsFailure extends Error {
  override readonly name = 'TlsFailure';
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

const WHO = { client: "the server's", server: "the client's" } as const;

/** What the other side's certificate lacks, by the code of its verification. */
const CERTIFICATE: Readonly<Record<string, string>> = {
  CERT_HAS_EXPIRED: 'has expired',
  CERT_NOT_YET_VALID: 'is not valid yet: are the clocks of both hosts right?',
  CERT_REVOKED: 'was revoked, says ca-crl.pem',
  CRL_HAS_EXPIRED: 'cannot be checked: ca-crl.pem has expired',
  UNABLE_TO_GET_CRL: 'cannot be checked: ca-crl.pem is of another authority',
  INVALID_PURPOSE: 'is not made for this use: see its extended key usage',
  SELF_SIGNED_CERT_IN_CHAIN: 'is signed by an authority that is not in ca-cert.pem here',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'is signed by itself, and not in ca-cert.pem here',
  UNABLE_TO_GET_ISSUER_CERT: 'is signed by an authority that is not in ca-cert.pem here',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'is signed by an authority that is not in ca-cert.pem here',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'is signed by an authority that is not in ca-cert.pem here',
  CERT_SIGNATURE_FAILURE: 'is signed by another authority than that in ca-cert.pem here',
};

/** What the other side said before it closed the connection, as the ends of OpenSSL's codes name it. */
const ALERTS: readonly (readonly [end: string, text: string])[] = [
  [
    'ALERT_UNKNOWN_CA',
    'does not know the authority that signed our certificate: compare ca-cert.pem on both hosts',
  ],
  [
    'ALERT_CERTIFICATE_REQUIRED',
    'wants a certificate, and we have none: put client-cert.pem and client-key.pem into dir',
  ],
  ['ALERT_CERTIFICATE_EXPIRED', 'says that our certificate has expired'],
  ['ALERT_CERTIFICATE_REVOKED', 'says that our certificate was revoked'],
  ['ALERT_BAD_CERTIFICATE', 'does not like our certificate'],
  ['ALERT_CERTIFICATE_UNKNOWN', 'does not like our certificate'],
  ['ALERT_ACCESS_DENIED', 'does not let us in: see its tls-authz'],
];

const NO_COMMON_GROUND =
  'both sides have nothing in common: credentials must be of the same kind on both, certificates or a pre-shared key';
const WRONG_KEY = 'the pre-shared keys differ: compare the user name and its key in keys.psk on both hosts';

/** @returns the words, without whom they are about */
export function explainTlsFailure(error: unknown, { credentials }: TlsSettings): string {
  const { endpoint, kind } = credentials;
  if (error instanceof TlsFailure) return error.message;
  const code = codeOf(error);
  const { message } = error as Error;
  if (CERTIFICATE[code] !== undefined) return `${WHO[endpoint]} certificate ${CERTIFICATE[code]}`;
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') {
    return `${WHO[endpoint]} certificate is of another host: ${message.replace(/^.*altnames: /i, '')}; tls-hostname names the one expected`;
  }
  const alert = ALERTS.find(([end]) => code.endsWith(end));
  if (alert !== undefined) return `the other side ${alert[1]}`;
  if (
    kind === 'tls-creds-psk' &&
    /DECRYPT_ERROR|BAD_RECORD_MAC|BINDER|DIGEST_CHECK|PSK|IDENTITY|HANDSHAKE_FAILURE|DECRYPTION_FAILED/.test(
      code,
    )
  ) {
    return WRONG_KEY;
  }
  if (
    /HANDSHAKE_FAILURE|NO_SHARED_CIPHER|NO_CIPHERS|NO_SUITABLE|UNSUPPORTED_PROTOCOL|PROTOCOL_VERSION|UNEXPECTED_MESSAGE|MISSING_EXTENSION|INTERNAL_ERROR/.test(
      code,
    )
  ) {
    return NO_COMMON_GROUND;
  }
  if (code === 'ETIMEDOUT') return 'the other side does not answer (ETIMEDOUT)';
  if (code === 'EPIPE' || code === 'ECONNRESET') {
    return endpoint === 'client'
      ? 'the other side closed the connection without saying why: its own messages do. It may speak no TLS (is tls-creds set there?), not know our authority, or not let us in'
      : 'the other side closed the connection without saying why: its own messages do. It may not know our authority, or connect by another name than our certificate has';
  }
  return `${message} (${code})`;
}

export function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : 'UNKNOWN';
}
