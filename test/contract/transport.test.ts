/**
 * Every transport passes the transport contract.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { networkInterfaces, tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { pipeCloexec } from '../../src/linux/fd.ts';
import { TlsObjects, type TlsSettings } from '../../src/tls/tls-objects.ts';
import type { TlsEndpoint } from '../../src/tls/x509-credentials.ts';
import { connectChannel } from '../../src/transport/connect.ts';
import { listenChannel } from '../../src/transport/listen.ts';
import { writeX509Folder } from '../support/certificates.ts';
import { testConnections } from './transport-connection-contract.ts';
import { type TransportUnderTest, testTransport } from './transport-contract.ts';

const hasIpv6 = Object.values(networkInterfaces()).some((addresses) =>
  addresses?.some(({ address }) => address === '::1'),
);

const tcp: TransportUnderTest = {
  name: 'tcp',
  kind: 'duplex',
  prepare: async () => ({ incoming: 'tcp:127.0.0.1:0' }),
  sourcePeer: /^tcp:127\.0\.0\.1:\d+$/,
  destinationPeer: /^tcp:127\.0\.0\.1:\d+$/,
};

const tcp6: TransportUnderTest = {
  name: 'tcp over IPv6',
  kind: 'duplex',
  whyNot: hasIpv6 ? undefined : 'this host has no address ::1',
  prepare: async () => ({ incoming: 'tcp:[::1]:0' }),
  sourcePeer: /^tcp:\[::1\]:\d+$/,
  destinationPeer: /^tcp:\[::1\]:\d+$/,
};

const unix: TransportUnderTest = {
  name: 'unix',
  kind: 'duplex',
  prepare: async () => inFolder((folder) => ({ incoming: `unix:${join(folder, 'vm.sock')}` })),
  sourcePeer: /^unix:.*vm\.sock$/,
  destinationPeer: /^unix:.*vm\.sock$/,
};

const fdOfSocket: TransportUnderTest = {
  name: 'fd (socket)',
  kind: 'duplex',
  prepare: async () => {
    const { incoming, cleanup } = await unix.prepare();
    const listener = await listenChannel(incoming);
    const [destination, source] = await Promise.all([listener.accept(), connectChannel(incoming)]);
    listener.close();
    cleanup?.();
    return { incoming: `fd:${destination.detach()}`, outgoing: `fd:${source.detach()}` };
  },
  sourcePeer: /^fd:\d+$/,
  destinationPeer: /^fd:\d+$/,
};

const fdOfPipe: TransportUnderTest = {
  name: 'fd (pipe)',
  kind: 'pipe',
  prepare: async () => {
    const [readFd, writeFd] = pipeCloexec();
    return { incoming: `fd:${readFd}`, outgoing: `fd:${writeFd}` };
  },
  sourcePeer: /^fd:\d+$/,
  destinationPeer: /^fd:\d+$/,
};

const exec: TransportUnderTest = {
  name: 'exec',
  kind: 'pipe',
  prepare: async () =>
    inFolder((folder) => {
      const pipe = join(folder, 'pipe');
      execFileSync('mkfifo', [pipe]);
      return { incoming: `exec:cat '${pipe}'`, outgoing: `exec:cat > '${pipe}'` };
    }),
  sourcePeer: /^exec:cat > /,
  destinationPeer: /^exec:cat /,
};

const file: TransportUnderTest = {
  name: 'file',
  kind: 'stored',
  prepare: async () => inFolder((folder) => ({ incoming: `file:${join(folder, 'vm.stream')}` })),
  sourcePeer: /^file:.*vm\.stream$/,
  destinationPeer: /^file:.*vm\.stream$/,
};

const x509Folder = mkdtempSync(join(tmpdir(), 'postcopy-'));
after(() => rmSync(x509Folder, { recursive: true }));
writeX509Folder(x509Folder);
const objects = new TlsObjects();
for (const endpoint of ['server', 'client'])
  objects.add({ 'qom-type': 'tls-creds-x509', id: endpoint, dir: x509Folder, endpoint });
const tlsOf = (endpoint: TlsEndpoint) => {
  const settings = objects.settings(endpoint, { credentials: endpoint, hostname: '', authorization: '' });
  return { tls: { settings: settings as TlsSettings } };
};

const tls: TransportUnderTest = {
  ...tcp,
  name: 'tcp with TLS',
  tls: { listen: tlsOf('server'), connect: tlsOf('client') },
  rounds: 8,
};

for (const transport of [tls, tcp, tcp6, unix, fdOfSocket, fdOfPipe, exec, file]) testTransport(transport);
for (const transport of [tls, tcp, tcp6, unix]) testConnections(transport);

function inFolder<Addresses extends object>(addressesIn: (folder: string) => Addresses) {
  const folder = mkdtempSync(join(tmpdir(), 'postcopy-'));
  return { ...addressesIn(folder), cleanup: () => rmSync(folder, { recursive: true }) };
}
