/**
 * The moment at which the guest is handed over, between two processes: whatever fails then, the guest runs in one place, or it
 * is told where to look.
 */
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { encodeCommand, MigrationCommand, PingValue } from '../../src/wire/commands.ts';
import { encodePong } from '../../src/wire/return-path.ts';
import { type Pair, POSTCOPY, proveMove, quitBoth, startPair } from '../support/pair.ts';
import { TcpProxy } from '../support/tcp-proxy.ts';
import { assertOneGuest } from '../support/ticks.ts';
import { until } from '../support/until.ts';

const REFUSED = { code: 1, signal: null };
const KILLED = { code: null, signal: 'SIGKILL' };
const LOADED = Buffer.from(encodePong(PingValue.PACKAGE_LOADED));
const BEHIND_RUN = Buffer.from(encodePong(PingValue.PACKAGE_SENT));
const RUN = Buffer.from(encodeCommand(MigrationCommand.POSTCOPY_RUN));
/** PACKAGED up to its length. */
const PACKAGED = Buffer.from('0800070004', 'hex');

interface ProxiedPair extends Pair {
  readonly proxy: TcpProxy;
}

/** A pair whose migration has come to where the network holds something back. */
async function heldAt(
  t: Parameters<typeof startPair>[0],
  direction: 'stream' | 'returnPath',
  bytes: Buffer,
): Promise<ProxiedPair> {
  const pair = await startPair(t, { memoryMib: 32, args: POSTCOPY });
  const { source, destination } = pair;
  const proxy = await TcpProxy.start(t, Number(/\d+$/.exec(await destination.address())?.[0]));
  await source.set({ 'max-bandwidth': 2 * 2 ** 20, 'downtime-limit': 1 });
  await source.migrate(proxy.uri);
  await source.untilStatus('active');
  proxy[direction].holdBefore(bytes);
  await source.qmp.execute('migrate-start-postcopy');
  await until(
    'the network to hold it back',
    () => proxy[direction].isHolding,
    () => `${source.describe()}\n${destination.describe()}`,
  );
  return { ...pair, proxy };
}

/** The guest goes on at the source as if nothing had been. */
async function assertRunsOn({ source, destination }: Pair, status: 'failed' | 'cancelled'): Promise<void> {
  await source.untilStatus(status);
  await until('the guest to run on', async () => (await source.runState()) === 'running');
  await source.untilMoreTicks();
  assert.deepEqual(destination.ticks, [], 'it has run at the destination');
  assertOneGuest(source.console);
  assert.deepEqual(await source.quit(), { code: 0, signal: null });
}

suite('handover', { timeout: 400_000 }, () => {
  test('a destination that is killed while it has the package costs no more than a pause', async (t) => {
    const pair = await heldAt(t, 'returnPath', LOADED);
    assert.equal((await pair.source.info()).status, 'postcopy-device');
    assert.equal(await pair.source.runState(), 'finish-migrate');
    pair.destination.kill('SIGKILL');
    assert.deepEqual(await pair.destination.untilExit(), KILLED);
    await pair.source.untilSaid(/Connection lost before the guest was handed over/);
    await assertRunsOn(pair, 'failed');
  });

  test('migrate_cancel takes the guest back while the destination has the package', async (t) => {
    const pair = await heldAt(t, 'returnPath', LOADED);
    await pair.source.qmp.execute('migrate_cancel');
    assert.deepEqual(await pair.destination.untilExit(), REFUSED);
    await assertRunsOn(pair, 'cancelled');
  });

  test('a destination that is stopped as the package comes is given up, and never runs the guest', async (t) => {
    const pair = await heldAt(t, 'stream', PACKAGED);
    await pair.source.set({ 'x-switchover-timeout': 1000 });
    pair.destination.kill('SIGSTOP');
    pair.proxy.stream.letThrough();
    await pair.source.untilSaid(/has not loaded the state of the devices within 1000 ms/);
    pair.destination.kill('SIGCONT');
    assert.deepEqual(await pair.destination.untilExit(), REFUSED);
    await assertRunsOn(pair, 'failed');
    const statuses = ['device', 'postcopy-device', 'failed'];
    assert.deepEqual(pair.source.qmp.migrationStatuses.slice(-3), statuses);
  });

  test('a network that breaks before RUN has left leaves the guest at the source', async (t) => {
    const pair = await heldAt(t, 'returnPath', LOADED);
    pair.proxy.cut();
    assert.deepEqual(await pair.destination.untilExit(), REFUSED);
    await assertRunsOn(pair, 'failed');
  });

  test('a RUN that is lost leaves the guest paused at the source, where an operator lets it run on', async (t) => {
    const pair = await heldAt(t, 'stream', RUN);
    const { source, destination, proxy } = pair;
    await source.untilStatus('postcopy-active');
    proxy.cut();
    assert.deepEqual(await destination.untilExit(), REFUSED);
    await source.untilStatus('postcopy-paused');
    await source.untilSaid(
      /while the guest was handed over: .*continue here with "cont" only if it does not/,
    );
    assert.equal(await source.runState(), 'paused');
    await source.qmp.execute('cont');
    await assertRunsOn(pair, 'failed');
  });

  test('a guest that has run, of which the source has not heard, comes through a recovery whole', async (t) => {
    const pair = await heldAt(t, 'returnPath', BEHIND_RUN);
    const { source, destination, proxy } = pair;
    proxy.cut();
    await source.untilStatus('postcopy-paused');
    await destination.untilStatus('postcopy-paused');
    assert.equal(await source.runState(), 'paused', 'it does not know');
    proxy.returnPath.letThrough();
    await proxy.mend();
    await destination.qmp.execute('migrate-recover', { uri: `tcp:127.0.0.1:${proxy.targetPort}` });
    await source.qmp.execute('migrate', { uri: proxy.uri, resume: true });
    await source.untilStatus('completed');
    await destination.untilStatus('completed');
    await proveMove(pair);
    await quitBoth(pair);
  });
});
