/**
 * Certificates for tests, in folders as QEMU and `tls-creds-x509` want them; written as DER by hand, so that tests need no
 * tool, and can have every fault that a certificate may have.
 */
import { generateKeyPairSync, type KeyObject, sign, X509Certificate } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const DAY_MS = 86_400_000;

export interface CertificateOptions {
  /** Attributes in order, e.g. `[['O', 'Example'], ['CN', 'host1']]`. */
  readonly subject: readonly (readonly [name: keyof typeof ATTRIBUTES, value: string])[];
  readonly isAuthority?: boolean;
  /** Default: an authority signs itself. */
  readonly issuer?: Certificate;
  readonly dnsNames?: readonly string[];
  /** IPv4. */
  readonly addresses?: readonly string[];
  readonly usage?: 'server' | 'client';
  /** Days from now; default -1 and 30. */
  readonly fromDays?: number;
  readonly toDays?: number;
}

export interface Certificate {
  readonly pem: string;
  readonly keyPem: string;
  readonly key: KeyObject;
  readonly name: Buffer;
  readonly serial: number;
}

const ATTRIBUTES = { CN: '550403', C: '550406', O: '55040a', OU: '55040b' } as const;
const ECDSA_WITH_SHA256 = oid('2a8648ce3d040302');
const USAGES = { server: '2b06010505070301', client: '2b06010505070302' } as const;
let nextSerial = 1000;

export function makeCertificate(options: CertificateOptions): Certificate {
  const { subject, isAuthority = false, issuer, dnsNames = [], addresses = [], usage } = options;
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const name = sequence(
    ...subject.map(([attribute, value]) =>
      tagged(0x31, sequence(oid(ATTRIBUTES[attribute]), tagged(0x0c, Buffer.from(value)))),
    ),
  );
  const serial = nextSerial++;
  const names = [
    ...dnsNames.map((text) => tagged(0x82, Buffer.from(text))),
    ...addresses.map((text) => tagged(0x87, Buffer.from(text.split('.').map(Number)))),
  ];
  const extensions = [
    extension('551d13', sequence(...(isAuthority ? [tagged(0x01, Buffer.of(0xff))] : [])), true),
    ...(isAuthority ? [extension('551d0f', Buffer.of(3, 2, 1, 6), true)] : []),
    ...(usage === undefined ? [] : [extension('551d25', sequence(oid(USAGES[usage])), false)]),
    ...(names.length === 0 ? [] : [extension('551d11', sequence(...names), false)]),
  ];
  const body = sequence(
    tagged(0xa0, integer(2)),
    integer(serial),
    sequence(ECDSA_WITH_SHA256),
    issuer?.name ?? name,
    sequence(time(options.fromDays ?? -1), time(options.toDays ?? 30)),
    name,
    publicKey.export({ type: 'spki', format: 'der' }),
    tagged(0xa3, sequence(...extensions)),
  );
  const pem = armour('CERTIFICATE', signed(body, issuer?.key ?? privateKey));
  const keyPem = privateKey.export({ type: 'pkcs8', format: 'pem' }).toString();
  return { pem: new X509Certificate(pem).toString(), keyPem, key: privateKey, name, serial };
}

export function makeRevocationList(issuer: Certificate, revoked: readonly Certificate[]): string {
  const body = sequence(
    integer(1),
    sequence(ECDSA_WITH_SHA256),
    issuer.name,
    time(-1),
    time(30),
    ...(revoked.length === 0
      ? []
      : [sequence(...revoked.map(({ serial }) => sequence(integer(serial), time(-1))))]),
  );
  return armour('X509 CRL', signed(body, issuer.key));
}

/** Files by their names. */
export function writeFolder(folder: string, files: Readonly<Record<string, string>>): string {
  mkdirSync(folder, { recursive: true });
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
  return folder;
}

/** A folder for both ends: an authority, a server `localhost` at 127.0.0.1, and a client `tester`. */
export function writeX509Folder(folder: string): string {
  const authority = makeCertificate({ subject: [['CN', 'Test authority']], isAuthority: true });
  const server = makeCertificate({
    subject: [
      ['O', 'Tests'],
      ['CN', 'localhost'],
    ],
    issuer: authority,
    dnsNames: ['localhost'],
    addresses: ['127.0.0.1'],
    usage: 'server',
  });
  const client = makeCertificate({
    subject: [
      ['O', 'Tests'],
      ['CN', 'tester'],
    ],
    issuer: authority,
    usage: 'client',
  });
  return writeFolder(folder, {
    'ca-cert.pem': authority.pem,
    'server-cert.pem': server.pem,
    'server-key.pem': server.keyPem,
    'client-cert.pem': client.pem,
    'client-key.pem': client.keyPem,
  });
}

/** The name of that client, for `tls-authz`. */
export const CLIENT_NAME = 'O=Tests,CN=tester';

/** A folder with a key of the user `qemu`. */
export function writePskFolder(folder: string, key = '00112233445566778899aabbccddeeff'): string {
  return writeFolder(folder, { 'keys.psk': `qemu:${key}\n` });
}

function signed(body: Buffer, key: KeyObject): Buffer {
  const signature = sign('sha256', body, key);
  return sequence(body, sequence(ECDSA_WITH_SHA256), tagged(0x03, Buffer.concat([Buffer.of(0), signature])));
}

function extension(id: string, value: Buffer, isCritical: boolean): Buffer {
  return sequence(oid(id), ...(isCritical ? [tagged(0x01, Buffer.of(0xff))] : []), tagged(0x04, value));
}

function time(days: number): Buffer {
  const text = new Date(Date.now() + days * DAY_MS).toISOString().replace(/[-:T]|\.\d+/g, '');
  return tagged(0x17, Buffer.from(text.slice(2)));
}

function integer(value: number): Buffer {
  const hex = value.toString(16);
  const bytes = Buffer.from(hex.length % 2 === 0 ? hex : `0${hex}`, 'hex');
  return tagged(0x02, (bytes[0] as number) >= 0x80 ? Buffer.concat([Buffer.of(0), bytes]) : bytes);
}

function oid(hex: string): Buffer {
  return tagged(0x06, Buffer.from(hex, 'hex'));
}

function sequence(...items: readonly Uint8Array[]): Buffer {
  return tagged(0x30, Buffer.concat(items));
}

function tagged(tag: number, content: Uint8Array): Buffer {
  const { length } = content;
  const head =
    length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.of(tag, ...head), content]);
}

function armour(label: string, der: Buffer): string {
  const lines = der.toString('base64').replace(/.{64}(?=.)/g, '$&\n');
  return `-----BEGIN ${label}-----\n${lines}\n-----END ${label}-----\n`;
}
