/**
 * Migrations between two hosts whose cable is pulled, or swallows what is sent: network namespaces, and TCP as it is.
 *
 * `x-peer-timeout` and `x-switchover-timeout` are as short as they may be, so that nobody waits for a minute.
 */
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { checkMemory, saveMemory } from '../support/guest-memory.ts';
import { type Pair, POSTCOPY, proveMove, quitBoth, startPair, startSource } from '../support/pair.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { assertOneGuest } from '../support/ticks.ts';
import { TwoHosts } from '../support/two-hosts.ts';
import { until } from '../support/until.ts';
import { VmProcess } from '../support/vm-process.ts';

const IMPATIENT = [...POSTCOPY, '--parameter', 'x-peer-timeout=3000'];
const SLOW = { 'max-bandwidth': 512 * 1024, 'max-postcopy-bandwidth': 256 * 1024 };
const EVERYTHING = { 'max-bandwidth': 0, 'max-postcopy-bandwidth': 0 };
const PORT = 4444;

function timesEntered(vm: VmProcess, status: string): number {
  return vm.qmp.migrationStatuses.filter((seen) => seen === status).length;
}

async function untilBothEntered({ source, destination }: Pair, status: string, times: number): Promise<void> {
  for (const vm of [source, destination]) {
    await until(
      `"${status}" for time ${times} at ${vm.name}`,
      () => timesEntered(vm, status) >= times,
      () => vm.describe(),
    );
  }
}

/** The guest runs at the destination, and the source knows. */
async function intoPostcopy({ source, destination }: Pair, uri: string): Promise<void> {
  await source.set(SLOW);
  await source.migrate(uri);
  await source.untilStatus('active');
  await source.qmp.execute('migrate-start-postcopy');
  await until('the guest to run there', async () => (await destination.runState()) === 'running');
  await until('a request', async () => ((await source.info()).ram?.['postcopy-requests'] ?? 0) > 0);
}

suite('two hosts', { timeout: 400_000 }, () => {
  test('in postcopy: a short break is ridden out, a longer one pauses both, and they are recovered', async (t) => {
    const hosts = TwoHosts.start(t);
    if (hosts === undefined) return;
    const uri = `tcp:${hosts.address('b')}:${PORT}`;
    const pair = await startPair(t, {
      memoryMib: 32,
      rangeMib: 16,
      guest: 'random',
      args: IMPATIENT,
      incoming: uri,
      sourceWithin: hosts.within('a'),
      destinationWithin: hosts.within('b'),
    });
    const { source, destination } = pair;
    hosts.slow('a', 40);
    await intoPostcopy(pair, uri);

    hosts.pull('a');
    const sinceMs = performance.now();
    await until('half a second', () => performance.now() - sinceMs > 500);
    hosts.plugIn('a');
    const { remaining } = (await source.info()).ram ?? { remaining: 0 };
    await until('more pages', async () => ((await source.info()).ram?.remaining ?? 0) < remaining);
    for (const vm of [source, destination]) assert.equal(timesEntered(vm, 'postcopy-paused'), 0);

    const breaks = [
      { begin: () => hosts.pull('b'), end: () => hosts.plugIn('b') },
      { begin: () => hosts.swallow(), end: () => hosts.carry() },
    ];
    for (const [index, { begin, end }] of breaks.entries()) {
      begin();
      await untilBothEntered(pair, 'postcopy-paused', index + 1);
      for (const vm of [source, destination]) {
        await vm.untilSaid(/nothing was heard of the|does not answer/);
      }
      assert.equal(await destination.runState(), 'running');
      assert.equal(await source.runState(), 'postmigrate');
      end();
      await destination.qmp.execute('migrate-recover', { uri });
      await source.qmp.execute('migrate', { uri, resume: true });
      await untilBothEntered(pair, 'postcopy-active', index + 2);
      // The guest goes on: the page that it waited for has come.
      await destination.untilMoreTicks(1);
    }
    await source.set(EVERYTHING);
    await untilBothEntered(pair, 'completed', 1);
    await proveMove(pair);
    await quitBoth(pair);
  });

  test('before the guest is gone: whatever is swallowed, it runs on at the source', async (t) => {
    const hosts = TwoHosts.start(t);
    if (hosts === undefined) return;
    const folder = tempFolder(t);
    const options = { memoryMib: 32, args: IMPATIENT, sourceWithin: hosts.within('a') };
    const source = await startSource(t, folder, options);
    const startDestination = (port: number) => {
      const incoming = ['--incoming', `tcp:${hosts.address('b')}:${port}`];
      return VmProcess.start(
        t,
        folder,
        `at-${port}`,
        ['--memory', '32M', ...IMPATIENT, ...incoming],
        hosts.within('b'),
      );
    };
    const goesOn = async () => {
      assert.equal(await source.runState(), 'running');
      await source.untilMoreTicks();
    };

    // Connecting: the first packet is swallowed already.
    hosts.swallow();
    const other = await source.connectQmp();
    other.post('migrate', { uri: `tcp:${hosts.address('b')}:${PORT}` });
    await source.untilStatus('setup');
    await source.qmp.execute('migrate_cancel');
    assert.equal((await source.info()).status, 'cancelled');
    other.close();
    await goesOn();
    hosts.carry();

    // Precopy: both sides notice.
    const first = await startDestination(PORT);
    await source.set({ ...SLOW, 'downtime-limit': 1 });
    await source.migrate(await first.address());
    await first.untilStatus('active');
    hosts.swallow();
    await source.untilStatus('failed');
    assert.match(
      (await source.info())['error-desc'] ?? '',
      /before the guest was handed over: .*(heard|does not answer)/,
    );
    assert.deepEqual(await first.untilExit(), { code: 1, signal: null });
    assert.match(first.stderr, /nothing was heard of the source for 3 s|does not answer/);
    await goesOn();
    hosts.carry();

    // The switch: the package is swallowed.
    const second = await startDestination(PORT + 1);
    source.qmp.events.length = 0;
    await source.set({ 'x-switchover-timeout': 1000 });
    await source.migrate(await second.address());
    await second.untilStatus('active');
    await source.untilStatus('active');
    hosts.swallow();
    await source.qmp.execute('migrate-start-postcopy');
    await source.untilStatus('failed');
    assert(source.qmp.migrationStatuses.includes('device'));
    assert.deepEqual(await second.untilExit(), { code: 1, signal: null });
    await goesOn();

    await source.qmp.execute('stop');
    checkMemory(await saveMemory(source, folder, { lengthBytes: 32 * 2 ** 20 }));
    assertOneGuest(source.console);
    assert.deepEqual(await source.quit(), { code: 0, signal: null });
  });
});
