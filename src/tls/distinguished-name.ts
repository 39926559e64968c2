/**
 * The name on a certificate as QEMU writes it, so that the same `tls-authz` serves both: `C=GB,O=Example,CN=host1`, in the
 * order in which the certificate has it.
 */
import type { X509Certificate } from 'node:crypto';

/** Attributes that OpenSSL and GnuTLS call by different names. */
const NAMES: Readonly<Record<string, string>> = { emailAddress: 'EMAIL' };

export function distinguishedName({ subject }: Pick<X509Certificate, 'subject'>): string {
  // Node gives one attribute a line, values escaped as RFC 2253 wants it; undefined of a name without attributes.
  return ((subject as string | undefined) ?? '')
    .split('\n')
    .map((line) =>
      line
        .split(' + ')
        .map((attribute) => attribute.replace(/^[^=]+/, (name) => NAMES[name] ?? name))
        .join('+'),
    )
    .join(',');
}
