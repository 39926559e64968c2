import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import {
  makeCertificate,
  writeFolder,
  writePskFolder,
  writeX509Folder,
} from '../../test/support/certificates.ts';
import { distinguishedName } from './distinguished-name.ts';
import { parseKeys } from './psk-credentials.ts';
import { TlsObjects } from './tls-objects.ts';

const root = mkdtempSync(join(tmpdir(), 'postcopy-'));
after(() => rmSync(root, { recursive: true }));
const x509 = writeX509Folder(join(root, 'x509'));
const psk = writePskFolder(join(root, 'psk'));
const NAMES = { credentials: '', hostname: '', authorization: '' };

function objects(): TlsObjects {
  const made = new TlsObjects();
  for (const endpoint of ['server', 'client']) {
    made.add({ 'qom-type': 'tls-creds-x509', id: endpoint, dir: x509, endpoint });
    made.add({ 'qom-type': 'tls-creds-psk', id: `psk-${endpoint}`, dir: psk, endpoint });
  }
  made.add({ 'qom-type': 'tls-creds-x509', id: 'lax', dir: x509, endpoint: 'server', 'verify-peer': 'off' });
  made.add({ 'qom-type': 'authz-simple', id: 'auth', identity: 'CN=a' });
  return made;
}

test('TlsObjects gives an end what its names say', () => {
  const made = objects();
  assert.equal(made.settings('client', NAMES), undefined);
  const client = made.settings('client', {
    ...NAMES,
    credentials: 'client',
    hostname: 'h',
    authorization: 'auth',
  });
  assert.equal(client?.hostname, 'h');
  assert.equal(client?.authorization, undefined);
  const server = made.settings('server', {
    ...NAMES,
    credentials: 'psk-server',
    hostname: 'h',
    authorization: 'auth',
  });
  assert.equal(server?.hostname, undefined);
  assert.equal(server?.authorization?.id, 'auth');
  assert.deepEqual(server?.credentials.kind === 'tls-creds-psk' && Object.keys(server.credentials.keys), [
    'qemu',
  ]);
});

test('TlsObjects finds no key of a user who is named like what every object has', () => {
  const add = () =>
    objects().add({
      'qom-type': 'tls-creds-psk',
      id: 'odd',
      dir: psk,
      endpoint: 'client',
      username: 'constructor',
    });
  assert.throws(add, /has no key of the user "constructor"/);
});

test('TlsObjects says what is missing and what does not fit', () => {
  const made = objects();
  for (const [endpoint, names, message] of [
    [
      'client',
      { credentials: 'nope' },
      /There is no object "nope" with TLS credentials; there are: "server"/,
    ],
    ['client', { credentials: 'server' }, /"server" are those of a server; this end is the client/],
    ['server', { credentials: 'auth' }, /"auth" holds no TLS credentials/],
    ['server', { credentials: 'server', authorization: 'client' }, /"client" does not say who may come/],
    ['server', { authorization: 'auth' }, /tls-authz needs tls-creds/],
    ['server', { credentials: 'lax', authorization: 'auth' }, /"lax" has verify-peer=off/],
  ] as const) {
    assert.throws(() => made.settings(endpoint, { ...NAMES, ...names }), message);
  }
  assert.throws(() => made.add({ 'qom-type': 'authz-simple', id: 'auth', identity: 'x' }), /"auth" already/);
  assert.throws(() => made.add({ 'qom-type': 'rng', id: 'r' }), /no objects of type "rng": tls-creds-x509/);
  assert.throws(() => made.add({ id: 'r' }), /needs a type/);
  made.remove('auth');
  assert.throws(() => made.remove('auth'), /There is no object "auth"/);
});

test('tls-creds-x509 finds certificates that nobody would believe before the first connection', () => {
  const authority = makeCertificate({ subject: [['CN', 'CA']], isAuthority: true });
  const other = makeCertificate({ subject: [['CN', 'Other']], isAuthority: true });
  const subject = [['CN', 'localhost']] as const;
  const good = makeCertificate({ subject, issuer: authority, usage: 'server' });
  const files = (cert: ReturnType<typeof makeCertificate>, key = cert.keyPem) => ({
    'ca-cert.pem': authority.pem,
    'server-cert.pem': cert.pem,
    'server-key.pem': key,
  });
  const cases: [files: Record<string, string>, message: RegExp, dirName: string][] = [
    [{}, /ca-cert\.pem" is missing/, 'empty'],
    [{ 'ca-cert.pem': authority.pem }, /server-cert\.pem" is missing/, 'no-cert'],
    [{ ...files(good), 'ca-cert.pem': 'hello' }, /ca-cert\.pem" holds no certificate in PEM form/, 'no-pem'],
    [files(good, other.keyPem), /is not the key of/, 'wrong-key'],
    [files(good, 'hello'), /is no private key that can be read/, 'no-key'],
    [files(makeCertificate({ subject, issuer: other })), /is not signed by an authority in/, 'other-ca'],
    [
      files(makeCertificate({ subject, issuer: authority, fromDays: -9, toDays: -1 })),
      /has expired on/,
      'expired',
    ],
    [files(makeCertificate({ subject, issuer: authority, fromDays: 1 })), /is valid only from/, 'early'],
    [
      files(makeCertificate({ subject, issuer: authority, usage: 'client' })),
      /must have serverAuth/,
      'usage',
    ],
  ];
  for (const [given, message, name] of cases) {
    const dir = writeFolder(join(root, name), given);
    const make = (more = {}) =>
      new TlsObjects().add({ 'qom-type': 'tls-creds-x509', id: 'tls0', dir, endpoint: 'server', ...more });
    assert.throws(
      make,
      (error: Error) => error.message.startsWith('Object "tls0": ') && message.test(error.message),
      name,
    );
    if (['expired', 'early', 'usage', 'other-ca'].includes(name)) make({ 'sanity-check': false });
  }
});

test('tls-creds-x509 follows a chain of authorities, which may be a circle', () => {
  const authority = makeCertificate({ subject: [['CN', 'CA']], isAuthority: true });
  const middle = makeCertificate({ subject: [['CN', 'Middle']], isAuthority: true, issuer: authority });
  const leaf = makeCertificate({ subject: [['CN', 'localhost']], issuer: middle });
  const stray = makeCertificate({ subject: [['CN', 'Stray']], isAuthority: true });
  const add = (name: string, trusted: string, chain: string) =>
    new TlsObjects().add({
      'qom-type': 'tls-creds-x509',
      id: 'a',
      endpoint: 'server',
      dir: writeFolder(join(root, name), {
        'ca-cert.pem': trusted,
        'server-cert.pem': leaf.pem + chain,
        'server-key.pem': leaf.keyPem,
      }),
    });
  add('chain', authority.pem, middle.pem);
  assert.throws(() => add('gap', authority.pem, stray.pem), /is not signed/);
  assert.throws(() => add('circle', authority.pem, stray.pem + stray.pem + leaf.pem), /is not signed/);
});

test('credentials refuse what they do not do', () => {
  for (const [properties, message] of [
    [
      { 'qom-type': 'tls-creds-x509', dir: x509, priority: 'NORMAL' },
      /"priority" is not supported: .*GnuTLS/,
    ],
    [{ 'qom-type': 'tls-creds-x509', dir: x509, passwordid: 's' }, /"passwordid" is not supported/],
    [{ 'qom-type': 'tls-creds-x509', dir: x509, endpoint: 'both' }, /must be server or client/],
    [{ 'qom-type': 'tls-creds-x509' }, /"dir" is missing/],
    [{ 'qom-type': 'tls-creds-psk', dir: psk, username: 'eve' }, /has no key of the user "eve"/],
    [{ 'qom-type': 'tls-creds-psk', dir: psk, endpoint: 'server', username: 'eve' }, /is for clients/],
    [{ 'qom-type': 'tls-creds-psk', dir: psk, 'verify-peer': 'off' }, /makes no sense/],
  ] as const) {
    assert.throws(() => new TlsObjects().add({ id: 'a', ...properties }), message);
  }
});

test('parseKeys() names the line that is wrong, never its key', () => {
  assert.deepEqual(parseKeys('a:00ff\nb:AA\n', 'f'), { a: '00ff', b: 'AA' });
  for (const text of ['a', 'a:xyz', 'a:0', ':00', `a:${'00'.repeat(257)}`, `${'a'.repeat(129)}:00`]) {
    assert.throws(() => parseKeys(`x:00\n${text}\n`, 'keys.psk'), {
      message: '"keys.psk", line 2: must be USERNAME:KEY, the key in hexadecimal',
    });
  }
  assert.throws(() => parseKeys('\n', 'keys.psk'), /holds no key/);
});

test('distinguishedName() is in the order of the certificate, as QEMU writes it', () => {
  const { pem } = makeCertificate({
    subject: [
      ['C', 'GB'],
      ['O', 'A, B'],
      ['CN', 'host'],
    ],
  });
  assert.equal(distinguishedName(new X509Certificate(pem)), 'C=GB,O=A\\, B,CN=host');
});
