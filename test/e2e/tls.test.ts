/**
 * Migrations between two processes over connections that TLS protects, their recovery, and what is said when one side is set
 * up otherwise than the other.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { suite, type TestContext, test } from 'node:test';
import { CLIENT_NAME, writePskFolder, writeX509Folder } from '../support/certificates.ts';
import {
  type PairOptions,
  POSTCOPY,
  proveMove,
  quitBoth,
  startPair,
  untilCompleted,
} from '../support/pair.ts';
import { TcpProxy } from '../support/tcp-proxy.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { until } from '../support/until.ts';

const SET = ['--parameter', 'tls-creds=tls0'];

/** Options of both sides with certificates. */
function withCertificates(t: TestContext): Required<Pick<PairOptions, 'sourceArgs' | 'destinationArgs'>> {
  const dir = writeX509Folder(tempFolder(t));
  const authz = `authz-list,id=auth0,rules.0.match=${CLIENT_NAME.replaceAll(',', ',,')},rules.0.policy=allow`;
  return {
    sourceArgs: ['--object', `tls-creds-x509,id=tls0,dir=${dir},endpoint=client`, ...SET],
    destinationArgs: [
      ...['--object', `tls-creds-x509,id=tls0,dir=${dir},endpoint=server`, ...SET],
      ...['--object', authz, '--parameter', 'tls-authz=auth0'],
    ],
  };
}

function withKey(t: TestContext): Required<Pick<PairOptions, 'sourceArgs' | 'destinationArgs'>> {
  const dir = writePskFolder(tempFolder(t));
  return {
    sourceArgs: ['--object', `tls-creds-psk,id=tls0,dir=${dir}`, ...SET],
    destinationArgs: ['--object', `tls-creds-psk,id=tls0,dir=${dir},endpoint=server`, ...SET],
  };
}

suite('migrations over TLS', { timeout: 120_000 }, () => {
  test('a postcopy with certificates at both sides', async (t) => {
    const pair = await startPair(t, { ...withCertificates(t), args: POSTCOPY });
    await pair.source.set({ 'max-bandwidth': 16 * 2 ** 20, 'x-postcopy-start-time': 200 });
    await pair.source.migrate(await pair.destination.address());
    await untilCompleted(pair);
    await proveMove(pair);
    await quitBoth(pair);
    assert.doesNotMatch(pair.source.stderr + pair.destination.stderr, /TLS|warning/i);
  });

  test('a precopy with a pre-shared key', async (t) => {
    const pair = await startPair(t, withKey(t));
    await pair.source.set({ 'max-bandwidth': 0, 'downtime-limit': 2000 });
    await pair.source.migrate(await pair.destination.address());
    await untilCompleted(pair);
    await proveMove(pair);
    await quitBoth(pair);
  });

  test('a postcopy whose connection breaks is recovered over another one, protected as well', async (t) => {
    const pair = await startPair(t, {
      ...withCertificates(t),
      memoryMib: 32,
      rangeMib: 16,
      guest: 'random',
      args: POSTCOPY,
    });
    const { source, destination } = pair;
    const port = Number(/\d+$/.exec(await destination.address())?.[0]);
    const proxy = await TcpProxy.start(t, port);
    await source.set({ 'max-bandwidth': 512 * 1024, 'max-postcopy-bandwidth': 256 * 1024 });
    await source.migrate(proxy.uri);
    await source.untilStatus('active');
    await source.qmp.execute('migrate-start-postcopy');
    await until(
      'a page request at the source',
      async () => ((await source.info()).ram?.['postcopy-requests'] ?? 0) > 0,
    );
    proxy.cut();
    await source.untilStatus('postcopy-paused');
    await destination.untilStatus('postcopy-paused');

    await destination.qmp.execute('migrate-recover', { uri: `tcp:127.0.0.1:${port}` });
    await proxy.mend();
    // Whoever tries without protection is not let in, and the destination waits on.
    await source.qmp.execute('migrate-set-parameters', { 'tls-creds': '' });
    await source.qmp.execute('migrate', { uri: proxy.uri, resume: true }).catch(() => {});
    await destination.untilSaid(/refused: .*not (protected|TLS)/);
    await until(
      'the source to be paused again',
      async () => (await source.info()).status === 'postcopy-paused',
    );
    await source.qmp.execute('migrate-set-parameters', { 'tls-creds': 'tls0' });
    await source.set({ 'max-postcopy-bandwidth': 0 });
    await source.qmp.execute('migrate', { uri: proxy.uri, resume: true });
    await untilCompleted(pair);
    await proveMove(pair);
    await quitBoth(pair);
  });

  test('a source without TLS is refused, its guest runs on, and the destination waits for a better one', async (t) => {
    const pair = await startPair(t, withCertificates(t));
    const { source, destination } = pair;
    const uri = await destination.address();
    await source.qmp.execute('migrate-set-parameters', { 'tls-creds': null, 'downtime-limit': 2000 });
    await source.migrate(uri).catch(() => {});
    await until('the source to fail', async () => (await source.info()).status === 'failed');
    await source.untilMoreTicks();
    await destination.untilSaid(
      /what came is a migration that is not protected: set tls-creds at its source too/,
    );
    await source.qmp.execute('migrate-set-parameters', { 'tls-creds': 'tls0', 'max-bandwidth': 0 });
    await source.migrate(uri);
    await until('the end', async () => (await source.info()).status === 'completed');
    await proveMove(pair);
  });

  test('a destination without TLS, or of another name, is not given the guest', async (t) => {
    const pair = await startPair(t, { sourceArgs: withCertificates(t).sourceArgs });
    const { source, destination } = pair;
    // The destination waits a moment for us to read its refusal; the monitor does not wait for that.
    await source.migrate(await destination.address()).catch(() => {});
    await until('the source to fail', async () => (await source.info()).status === 'failed');
    assert.match(
      (await source.info())['error-desc'] ?? '',
      /TLS: .*speak no TLS \(is tls-creds set there\?\)/,
    );
    await source.untilMoreTicks();
    await destination.untilSaid(/Not a migration stream.*set tls-creds at this end too/);
    await assert.rejects(
      source.qmp.execute('migrate', { uri: 'exec:cat > /dev/null' }),
      /exec: has no connection that TLS could protect/,
    );
    await source.qmp.execute('migrate-set-parameters', { 'tls-creds': 'nope' });
    await assert.rejects(source.migrate('tcp:127.0.0.1:1'), /There is no object "nope" with TLS credentials/);
    assert.equal(await source.runState(), 'running');
  });

  test('objects are made and removed at the monitor, and an address without TLS is warned of', async (t) => {
    const folder = tempFolder(t);
    const dir = writeX509Folder(join(folder, 'pki'));
    const { source, destination } = await startPair(t, { incoming: 'tcp:0.0.0.0:0' });
    await destination.untilSaid(/tcp:0\.0\.0\.0:\d+ is not protected: .*tls-creds/);
    const object = { 'qom-type': 'tls-creds-x509', id: 'tls0', dir, endpoint: 'client' };
    await source.qmp.execute('object-add', object);
    await assert.rejects(source.qmp.execute('object-add', object), /There is an object "tls0" already/);
    await assert.rejects(
      source.qmp.execute('object-add', { ...object, id: 'b', dir: join(folder, 'none') }),
      /Object "b": ".*ca-cert\.pem" is missing/,
    );
    await source.qmp.execute('object-del', { id: 'tls0' });
    await assert.rejects(source.qmp.execute('object-del', { id: 'tls0' }), /There is no object "tls0"/);
  });
});
