/**
 * TLS with a real QEMU at the other end, as client and as server, with certificates and with a pre-shared key.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { suite, type TestContext, test } from 'node:test';
import { CLIENT_NAME, writePskFolder, writeX509Folder } from '../support/certificates.ts';
import { RelayProcess } from '../support/relay-process.ts';
import { ServeProcess } from '../support/serve-process.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { runProgram } from '../support/vm-process.ts';
import { MOVER, needsQemu, Qemu, type QemuOptions } from './qemu.ts';
import { proveRestored, quit, restore, save } from './saved-guest.ts';

const GUEST = { memoryMib: 32, rangeMib: 8 } as const;

/** Makes a folder of credentials, and tells the object of one end. */
const KINDS = {
  x509: (folder: string) => {
    const dir = writeX509Folder(join(folder, 'pki'));
    return (endpoint: string, id = 'tls0') =>
      `tls-creds-x509,id=${id},dir=${dir},endpoint=${endpoint},verify-peer=on`;
  },
  psk: (folder: string) => {
    const dir = writePskFolder(join(folder, 'psk'));
    return (endpoint: string, id = 'tls0') =>
      `tls-creds-psk,id=${id},dir=${dir},endpoint=${endpoint}${endpoint === 'client' ? ',username=qemu' : ''}`;
  },
} as const;
type Objects = ReturnType<(typeof KINDS)[keyof typeof KINDS]>;

const WITH_TLS = { parameters: { 'tls-creds': 'tls0' } } as const;

/** A QEMU that waits at a TCP port, protected. */
async function startWaiting(t: TestContext, folder: string, object: string, options: QemuOptions = {}) {
  const qemu = await Qemu.start(t, folder, {
    ...GUEST,
    name: 'waiting',
    ...options,
    incoming: 'tcp:127.0.0.1:0',
    parameters: { ...WITH_TLS.parameters, ...options.parameters },
    extraArgs: ['-object', object, ...(options.extraArgs ?? [])],
  });
  const info = await qemu.qmp.execute<{ 'socket-address'?: { port: string }[] }>('query-migrate');
  return { qemu, uri: `tcp:127.0.0.1:${info['socket-address']?.[0]?.port}` };
}

const serverArgs = (object: string) => ['--object', object, '--tls-creds', 'tls0'];

suite('TLS with QEMU', { timeout: 400_000 }, () => {
  for (const [kind, make] of Object.entries(KINDS)) {
    test(`a relay ends the TLS of both sides, with ${kind}: QEMU is its client, and its server`, async (t) => {
      if (!needsQemu(t)) return;
      const folder = tempFolder(t);
      const objectOf: Objects = make(folder);
      const authz = `authz-simple,id=auth0,identity=${CLIENT_NAME.replaceAll(',', ',,')}`;
      const isX509 = kind === 'x509';
      const { qemu: destination, uri } = await startWaiting(t, folder, objectOf('server'), {
        program: MOVER,
        name: 'destination',
        capabilities: { 'postcopy-ram': true },
        ...(isX509 && { extraArgs: ['-object', authz], parameters: { 'tls-authz': 'auth0' } }),
      });
      const source = await Qemu.start(t, folder, {
        ...GUEST,
        program: MOVER,
        name: 'source',
        capabilities: { 'postcopy-ram': true },
        parameters: { ...WITH_TLS.parameters, 'max-bandwidth': 4 * 2 ** 20, 'downtime-limit': 1 },
        extraArgs: ['-object', objectOf('client')],
      });
      const relay = await RelayProcess.start(t, uri, {
        args: [
          ...['--object', objectOf('server', 'in'), '--listen-tls-creds', 'in'],
          ...['--object', objectOf('client', 'out'), '--connect-tls-creds', 'out'],
          ...(isX509 ? ['--object', authz, '--tls-authz', 'auth0'] : []),
        ],
      });
      await source.untilMoreTicks(1);

      await source.qmp.execute('migrate', { uri: relay.address });
      await source.untilStatus('active');
      await source.qmp.execute('migrate-start-postcopy');

      assert.equal(await source.migrationEnd(), 'completed', source.describe() + relay.stderr);
      await destination.untilStatus('completed');
      await destination.untilMoreTicks();
      assert.equal((await destination.proveOneEdge()).guest, 'counter');
      assert.deepEqual(await relay.untilExit(), { code: 0, signal: null }, relay.stderr);
      assert.equal(relay.report.state, 'completed');
    });

    test(`save takes a guest from a QEMU over TCP, and restore gives it to another, with ${kind}`, async (t) => {
      if (!needsQemu(t)) return;
      const folder = tempFolder(t);
      const objectOf: Objects = make(folder);
      const source = await Qemu.start(t, folder, {
        ...GUEST,
        name: 'source',
        ...WITH_TLS,
        extraArgs: ['-object', objectOf('client')],
      });
      await source.untilMoreTicks(2);
      const path = join(folder, 'vm.snap');
      const via = ['--via', 'tcp:127.0.0.1:0', ...serverArgs(objectOf('server'))];
      const saved = await runProgram(t, ['save', '--qmp', source.qmpPath, ...via, path]);
      assert.equal(saved.code, 0, saved.stderr + source.describe());
      const { tick = 0 } = source.ticks.at(-1) ?? {};

      const { qemu: destination, uri } = await startWaiting(t, folder, objectOf('server'), {
        capabilities: { 'postcopy-ram': true },
      });
      const restored = await runProgram(t, [
        'restore',
        path,
        '--into',
        uri,
        ...serverArgs(objectOf('client')),
      ]);
      assert.equal(restored.code, 0, restored.stderr + destination.describe());
      await destination.untilMoreTicks(2);
      assert((destination.ticks[0]?.tick ?? 0) > tick);
      assert.equal((await destination.proveOneEdge()).guest, 'counter');
    });
  }

  test('serve and restore meet over TLS, and the guest gets all of its memory', async (t) => {
    if (!needsQemu(t)) return;
    const saved = await save(t, { ...GUEST, guest: 'random' });
    const objectOf = KINDS.x509(saved.folder);
    const server = await ServeProcess.start(t, saved.path, { args: serverArgs(objectOf('server')) });
    const args = ['--cache', join(saved.folder, 'cache'), ...serverArgs(objectOf('client'))];
    const qemu = await restore(t, saved, { from: server.address, args });
    await proveRestored(qemu, saved);
    await server.untilSessions(1);
    assert.equal(server.sessions[0]?.outcome, 'served');
    await quit(qemu);
  });

  test('a QEMU that does not let us in leaves the snapshot where it is, and we say what to look at', async (t) => {
    if (!needsQemu(t)) return;
    const folder = tempFolder(t);
    const saved = await save(t, GUEST);
    const objectOf = KINDS.x509(folder);
    const authz = 'authz-simple,id=auth0,identity=CN=somebody else';
    const { qemu, uri } = await startWaiting(t, folder, objectOf('server'), {
      capabilities: { 'postcopy-ram': true },
      extraArgs: ['-object', authz],
      parameters: { 'tls-authz': 'auth0' },
    });
    const refused = await runProgram(t, [
      'restore',
      saved.path,
      '--into',
      uri,
      ...serverArgs(objectOf('client')),
    ]);
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /TLS/);
    assert.match(
      qemu.stderr,
      new RegExp(`denied for '?${CLIENT_NAME}|not authorized|${CLIENT_NAME}`, 'i'),
      qemu.stderr,
    );
  });
});
