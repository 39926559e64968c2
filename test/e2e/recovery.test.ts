/**
 * Postcopies whose connection breaks and that are recovered, between two processes: what both sides say, and that the guest
 * comes through whole.
 */
import assert from 'node:assert/strict';
import { connect, createServer } from 'node:net';
import { suite, test } from 'node:test';
import { atEnd } from '../support/cleanup.ts';
import { type Pair, POSTCOPY, proveMove, quitBoth, startPair } from '../support/pair.ts';
import { TcpProxy } from '../support/tcp-proxy.ts';
import { until } from '../support/until.ts';
import type { VmProcess } from '../support/vm-process.ts';

type Test = Parameters<typeof startPair>[0];

const FAST = { 'max-postcopy-bandwidth': 0 };

interface ProxiedPair extends Pair {
  readonly proxy: TcpProxy;
  readonly port: number;
}

/** A pair in the middle of a slow postcopy, through a network that can be cut. */
async function inPostcopy(t: Test, memoryMib = 32, args: readonly string[] = []): Promise<ProxiedPair> {
  const pair = await startPair(t, { memoryMib, rangeMib: 16, guest: 'random', args: [...POSTCOPY, ...args] });
  const { source, destination } = pair;
  const port = portOf(await destination.address());
  const proxy = await TcpProxy.start(t, port);
  await source.set({ 'max-bandwidth': 512 * 1024, 'max-postcopy-bandwidth': 256 * 1024 });
  await source.migrate(proxy.uri);
  await source.untilStatus('active');
  await source.qmp.execute('migrate-start-postcopy');
  await untilEntered(source, 'postcopy-active', 1);
  await until('the guest to run there', async () => (await destination.runState()) === 'running');
  // What the source has not read when its connection is reset is lost, also that the guest runs.
  await until(
    'a page request at the source',
    async () => ((await source.info()).ram?.['postcopy-requests'] ?? 0) > 0,
  );
  return { ...pair, proxy, port };
}

function portOf(uri: string): number {
  return Number(/\d+$/.exec(uri)?.[0]);
}

/** Waits until a side has entered a state so many times. */
async function untilEntered(vm: VmProcess, status: string, times: number): Promise<void> {
  await until(
    `"${status}" for time ${times} at ${vm.name}`,
    () => timesEntered(vm, status) >= times,
    () => vm.describe(),
  );
}

function timesEntered(vm: VmProcess, status: string): number {
  return vm.qmp.migrationStatuses.filter((seen) => seen === status).length;
}

/** It may still be at the recovery before, which has failed. */
async function untilListening(destination: VmProcess, port: number): Promise<void> {
  await until(
    'the destination to listen again',
    () =>
      recoverAt(destination, `tcp:127.0.0.1:${port}`).then(
        () => true,
        () => false,
      ),
    () => destination.describe(),
  );
}

async function untilBothEntered({ source, destination }: Pair, status: string, times: number): Promise<void> {
  await untilEntered(source, status, times);
  await untilEntered(destination, status, times);
}

const recoverAt = (vm: VmProcess, uri: string) => vm.qmp.execute('migrate-recover', { uri });
const resumeTo = (vm: VmProcess, uri: string) => vm.qmp.execute('migrate', { uri, resume: true });

async function recover({ source, destination, proxy, port }: ProxiedPair): Promise<void> {
  await recoverAt(destination, `tcp:127.0.0.1:${port}`);
  await resumeTo(source, proxy.uri);
}

async function completeAndProve(pair: Pair): Promise<void> {
  await pair.source.set(FAST);
  await untilBothEntered(pair, 'completed', 1);
  await proveMove(pair);
  await quitBoth(pair);
}

suite('recovery', { timeout: 400_000 }, () => {
  test('a postcopy whose connection breaks again and again is recovered, and the guest is whole', async (t) => {
    // A bitmap of more than a page.
    const pair = await inPostcopy(t, 192);
    const { source, destination, proxy } = pair;
    const rounds = 4;
    for (let round = 1; round <= rounds; round++) {
      const { remaining } = (await source.info()).ram ?? { remaining: 0 };
      await until('pages to be sent', async () => ((await source.info()).ram?.remaining ?? 0) < remaining);
      proxy.cut();
      await untilBothEntered(pair, 'postcopy-paused', round);
      assert.equal(await source.runState(), 'postmigrate');
      assert.equal(await destination.runState(), 'running');
      await proxy.mend();
      await recover(pair);
      await untilBothEntered(pair, 'postcopy-active', round + 1);
      assert.equal((await source.info())['error-desc'], undefined);
    }
    await completeAndProve(pair);
    for (const [vm, states] of [
      [source, ['postcopy-paused', 'postcopy-recover-setup', 'postcopy-recover', 'postcopy-active']],
      [destination, ['postcopy-paused', 'postcopy-recover', 'postcopy-active']],
    ] as const) {
      const from = vm.qmp.migrationStatuses.indexOf('postcopy-paused');
      assert.deepEqual(vm.qmp.migrationStatuses.slice(from, from + states.length), states);
      assert.match(vm.stderr, /recover the migration: migrate_recover/);
    }
  });

  test('both sides tell of interruptions and recoveries', async (t) => {
    const pair = await inPostcopy(t);
    const { source, destination, proxy } = pair;
    proxy.cut();
    await untilBothEntered(pair, 'postcopy-paused', 1);
    for (const vm of [source, destination]) {
      const { count, recovered } = (await vm.info())['x-interruptions'] ?? {};
      assert.deepEqual([count, recovered], [1, 0]);
    }
    await proxy.mend();
    await recover(pair);
    await untilBothEntered(pair, 'postcopy-active', 2);
    for (const vm of [source, destination]) {
      const told = (await vm.info())['x-interruptions'];
      assert.deepEqual([told?.count, told?.recovered], [1, 1]);
      assert((told?.['total-ms'] ?? 0) > 0 && (told?.['last-at-ms'] ?? 0) > 0);
      assert.match(
        await vm.qmp.execute('human-monitor-command', { 'command-line': 'info migrate' }),
        /interruptions: 1 \(1 recovered; \d+ ms in all, the last at \d+ ms\)/,
      );
    }
    await completeAndProve(pair);
  });

  test('the guest waits at a missing page, and goes on with it after the recovery', async (t) => {
    const pair = await inPostcopy(t);
    const { destination, proxy } = pair;
    proxy.cut();
    await untilBothEntered(pair, 'postcopy-paused', 1);
    await until('the guest to wait for a page', async () => {
      const used = destination.cpuTicks;
      const fromMs = performance.now();
      await until('a moment', () => performance.now() - fromMs > 200);
      return destination.cpuTicks - used < 5;
    });
    await proxy.mend();
    await recover(pair);
    await destination.untilMoreTicks();
    await completeAndProve(pair);
  });

  test('migrate-pause breaks the connection off from either side', async (t) => {
    const pair = await inPostcopy(t);
    const { source, destination } = pair;
    await source.qmp.execute('migrate-pause');
    await untilBothEntered(pair, 'postcopy-paused', 1);
    await source.untilSaid(/broken off by migrate-pause/);
    await assert.rejects(source.qmp.execute('migrate-pause'), /only supported in state/);
    await recover(pair);
    await untilBothEntered(pair, 'postcopy-active', 2);

    await destination.qmp.execute('migrate-pause');
    await untilBothEntered(pair, 'postcopy-paused', 2);
    await destination.untilSaid(/broken off by migrate-pause/);
    await recover(pair);
    await untilBothEntered(pair, 'postcopy-active', 3);
    await completeAndProve(pair);
  });

  test('what is not the other side costs nothing: both stay paused, and say why', async (t) => {
    const pair = await inPostcopy(t);
    const { source, destination, proxy } = pair;
    for (const vm of [source, destination]) {
      await assert.rejects(recoverAt(vm, 'tcp:127.0.0.1:0'), /only be run when postcopy is paused/);
      await assert.rejects(resumeTo(vm, 'tcp:127.0.0.1:1'), /no paused migration/);
    }
    proxy.cut();
    await untilBothEntered(pair, 'postcopy-paused', 1);
    await assert.rejects(recoverAt(source, 'tcp:127.0.0.1:0'), /only be run when postcopy is paused/);
    await assert.rejects(resumeTo(destination, 'tcp:127.0.0.1:1'), /no paused migration/);
    await assert.rejects(source.migrate('tcp:127.0.0.1:1'), /in progress.*"migrate -r"/);
    await assert.rejects(source.qmp.execute('migrate_cancel'), /cannot cancel.*recover it/);
    await assert.rejects(source.qmp.execute('cont'), /runs at the destination/);
    assert.equal((await destination.info())['socket-address'], undefined);

    await assert.rejects(resumeTo(source, proxy.uri), /not recovered: .*refused/);
    assert.equal((await source.info()).status, 'postcopy-paused');

    const rude = createServer((socket) => socket.end()).listen(0, '127.0.0.1');
    atEnd(t, () => rude.close());
    await new Promise((resolve) => rude.once('listening', resolve));
    const rudeUri = `tcp:127.0.0.1:${(rude.address() as { port: number }).port}`;
    await resumeTo(source, rudeUri);
    await source.untilSaid(/Recovery failed: /);
    await assert.rejects(recoverAt(destination, rudeUri), /in use/);
    await assert.rejects(recoverAt(destination, 'file:/dev/null'), /return path/);

    await recoverAt(destination, 'tcp:127.0.0.1:0');
    const stranger = connect(portOf(await destination.address()), '127.0.0.1');
    stranger.on('error', () => {});
    stranger.write(Buffer.from('QEVM\x00\x00\x00\x03'));
    await destination.untilSaid(/Recovery failed: A new migration begins here/);
    assert.equal((await destination.info()).status, 'postcopy-paused');

    // The last address counts.
    await recoverAt(destination, 'tcp:127.0.0.1:0');
    await recoverAt(destination, 'tcp:127.0.0.1:0');
    await resumeTo(source, await destination.address());
    await untilBothEntered(pair, 'postcopy-active', 2);
    await completeAndProve(pair);
  });

  test('a connection that breaks in the handshake leaves both paused, until one does not', async (t) => {
    const pair = await inPostcopy(t);
    const { source, destination, proxy, port } = pair;
    proxy.cut();
    await untilBothEntered(pair, 'postcopy-paused', 1);
    for (let round = 2; round <= 6; round++) {
      const recoveries = timesEntered(destination, 'postcopy-recover');
      await proxy.mend();
      await untilListening(destination, port);
      await resumeTo(source, proxy.uri);
      if (round > 3) await untilEntered(destination, 'postcopy-recover', recoveries + 1);
      proxy.cut();
      await untilEntered(source, 'postcopy-paused', round);
    }
    await proxy.mend();
    await untilListening(destination, port);
    await resumeTo(source, proxy.uri);
    await until(
      'both to go on',
      async () =>
        (await source.info()).status === 'postcopy-active' &&
        (await destination.info()).status === 'postcopy-active',
    );
    await completeAndProve(pair);
  });

  test('at the human monitors', async (t) => {
    const pair = await inPostcopy(t);
    const { source, destination, proxy, port } = pair;
    const say = (vm: VmProcess, line: string) =>
      vm.qmp.execute<string>('human-monitor-command', { 'command-line': line });
    assert.equal(await say(source, 'migrate_pause'), '');
    await untilBothEntered(pair, 'postcopy-paused', 1);
    assert.match(await say(source, `migrate -d ${proxy.uri}`), /in progress/);
    assert.equal(await say(destination, `migrate_recover tcp:127.0.0.1:${port}`), '');
    assert.match(await say(destination, 'info migrate'), new RegExp(`\ttcp:127.0.0.1:${port}`));
    assert.equal(await say(source, `migrate -d -r ${proxy.uri}`), '');
    await untilBothEntered(pair, 'postcopy-active', 2);
    await completeAndProve(pair);
  });
});

/** Waits of a test: short, so that both have found each other before anybody looks. */
const RECONNECT = ['--reconnect', '--parameter', 'x-reconnect-ms=200'];

suite('reconnect', { timeout: 400_000 }, () => {
  test('both sides find each other again by themselves, again and again', async (t) => {
    const pair = await inPostcopy(t, 32, RECONNECT);
    const { source, destination, proxy } = pair;
    for (let round = 1; round <= 3; round++) {
      proxy.cut();
      await untilBothEntered(pair, 'postcopy-paused', round);
      if (round === 2) await source.untilSaid(/not recovered: .*refused/);
      await proxy.mend();
      await until(
        'both to go on',
        async () =>
          (await source.info()).status === 'postcopy-active' &&
          (await destination.info()).status === 'postcopy-active',
        () => `${source.describe()}\n${destination.describe()}`,
      );
    }
    await completeAndProve(pair);
    const told = source.stderr.match(/not recovered: /g) ?? [];
    assert(told.length <= 3, `the same failure is told again and again:\n${source.stderr}`);
  });

  test('a source that has lost its connection takes the place of the one that the destination still has', async (t) => {
    const pair = await inPostcopy(t, 32, RECONNECT);
    const { source, destination, proxy } = pair;
    proxy.desert();
    await untilBothEntered(pair, 'postcopy-active', 2);
    await destination.untilSaid(/the source goes on over another connection/);
    assert.equal(timesEntered(source, 'postcopy-paused'), 1);
    await completeAndProve(pair);
  });

  test('strangers are sent away; migrate_pause ends the attempts, and other addresses begin them again', async (t) => {
    const pair = await inPostcopy(t, 32, RECONNECT);
    const { source, destination, proxy, port } = pair;
    const stranger = connect(port, '127.0.0.1');
    stranger.on('error', () => {});
    stranger.write(Buffer.from('QEVM\x00\x00\x00\x03'));
    await destination.untilSaid(/refused: it does not go on with this migration/);
    assert.equal((await destination.info()).status, 'postcopy-active', 'it costs nothing');

    await destination.qmp.execute('migrate-pause');
    await untilEntered(destination, 'postcopy-paused', 1);
    await source.untilSaid(/not recovered|Recovery failed/);
    await source.qmp.execute('migrate-pause').catch(() => {}); // It may be between two attempts.
    assert.equal((await destination.info())['socket-address'], undefined);
    const attempts = timesEntered(source, 'postcopy-recover-setup');
    const fromMs = performance.now();
    await until('time for another attempt', () => performance.now() - fromMs > 500);
    assert(timesEntered(source, 'postcopy-recover-setup') <= attempts + 1);
    assert.equal((await source.info()).status, 'postcopy-paused');

    proxy.cut();
    await recoverAt(destination, 'tcp:127.0.0.1:0');
    await resumeTo(source, await destination.address());
    await untilEntered(source, 'postcopy-active', 2);
    await completeAndProve(pair);
  });

  test('x-reconnect-ms begins and ends it also while the migration is interrupted', async (t) => {
    const pair = await inPostcopy(t);
    const { source, destination, proxy } = pair;
    proxy.cut();
    await untilBothEntered(pair, 'postcopy-paused', 1);
    await proxy.mend();
    for (const vm of [source, destination]) await vm.set({ 'x-reconnect-ms': 200 });
    await untilBothEntered(pair, 'postcopy-active', 2);
    for (const vm of [source, destination]) await vm.set({ 'x-reconnect-ms': 0 });
    assert.equal((await destination.info())['socket-address'], undefined);
    await completeAndProve(pair);
  });
});
