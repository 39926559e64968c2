/**
 * Processes that are stopped for a while, as a debugger or a host that sleeps does: shortly, which costs nothing, and for longer
 * than `x-peer-timeout`, after which the other side has given them up. Over a unix socket, where no network could tell.
 */
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { checkMemory, saveMemory } from '../support/guest-memory.ts';
import { type Pair, POSTCOPY, proveMove, quitBoth, startPair, startSource } from '../support/pair.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { assertOneGuest } from '../support/ticks.ts';
import { until } from '../support/until.ts';
import { VmProcess } from '../support/vm-process.ts';

const IMPATIENT = [...POSTCOPY, '--parameter', 'x-peer-timeout=3000'];
const SLOW = { 'max-bandwidth': 512 * 1024, 'max-postcopy-bandwidth': 256 * 1024, 'downtime-limit': 1 };
const EVERYTHING = { 'max-bandwidth': 0, 'max-postcopy-bandwidth': 0 };
const SHORT_MS = 1200;

async function untilNow(vm: VmProcess, status: string): Promise<void> {
  await until(
    `"${status}" at ${vm.name}`,
    async () => (await vm.info()).status === status,
    () => vm.describe(),
  );
}

function timesPaused(vm: VmProcess): number {
  return vm.qmp.migrationStatuses.filter((status) => status === 'postcopy-paused').length;
}

/** Longer than the source's question and its answer take, and shorter than anybody's patience. */
async function aWhile(): Promise<void> {
  const sinceMs = performance.now();
  await until('a while', () => performance.now() - sinceMs > SHORT_MS);
}

async function recover({ source, destination, folder }: Pair, name: string): Promise<void> {
  const uri = `unix:${folder}/${name}`;
  await destination.qmp.execute('migrate-recover', { uri });
  await source.qmp.execute('migrate', { uri, resume: true });
  for (const vm of [source, destination]) await untilNow(vm, 'postcopy-active');
}

suite('stopped processes', { timeout: 400_000 }, () => {
  test('in postcopy: shortly, which changes nothing; for long, which pauses both, and they are recovered', async (t) => {
    const pair = await startPair(t, {
      memoryMib: 32,
      rangeMib: 16,
      guest: 'random',
      args: IMPATIENT,
      incoming: 'unix:{folder}/migration',
    });
    const { source, destination } = pair;
    await source.set(SLOW);
    await source.migrate(await destination.address());
    await source.untilStatus('active');
    await source.qmp.execute('migrate-start-postcopy');
    await until('the guest to run there', async () => (await destination.runState()) === 'running');
    await until('a request', async () => ((await source.info()).ram?.['postcopy-requests'] ?? 0) > 0);

    // A guest that asks for nothing: the rest is pushed, slowly, and there is postcopy for as long as the test takes.
    await destination.qmp.execute('stop');

    for (const vm of [source, destination]) {
      vm.kill('SIGSTOP');
      await aWhile();
      vm.kill('SIGCONT');
      await aWhile();
    }
    assert.deepEqual([timesPaused(source), timesPaused(destination)], [0, 0]);

    source.kill('SIGSTOP');
    await untilNow(destination, 'postcopy-paused');
    await destination.untilSaid(/nothing was heard of the source for 3 s/);
    source.kill('SIGCONT');
    await untilNow(source, 'postcopy-paused');
    await recover(pair, 'first');

    destination.kill('SIGSTOP');
    await untilNow(source, 'postcopy-paused');
    await source.untilSaid(/nothing was heard of the destination for 3 s \(parameter x-peer-timeout\)/);
    destination.kill('SIGCONT');
    await untilNow(destination, 'postcopy-paused');
    await recover(pair, 'second');

    await destination.qmp.execute('cont');
    await source.set(EVERYTHING);
    for (const vm of [source, destination]) await untilNow(vm, 'completed');
    await proveMove(pair);
    await quitBoth(pair);
  });

  test('in precopy: a side that is stopped for long is given up, and the guest stays at the source', async (t) => {
    const folder = tempFolder(t);
    const options = { memoryMib: 16, rangeMib: 4, args: IMPATIENT };
    const source = await startSource(t, folder, options);
    await source.set(SLOW);
    for (const stopped of ['destination', 'source'] as const) {
      const incoming = ['--incoming', `unix:${folder}/${stopped}-stopped`];
      const args = ['--memory', '16M', ...IMPATIENT, ...incoming];
      const destination = await VmProcess.start(t, folder, `with-${stopped}`, args);
      await source.migrate(await destination.address());
      await untilNow(source, 'active');
      await untilNow(destination, 'active');
      if (stopped === 'destination') {
        destination.kill('SIGSTOP');
        await untilNow(source, 'failed');
        await source.untilSaid(/before the guest was handed over: nothing was heard of the destination/);
        destination.kill('SIGCONT');
        assert.deepEqual(await destination.untilExit(), { code: 1, signal: null });
      } else {
        source.kill('SIGSTOP');
        assert.deepEqual(await destination.untilExit(), { code: 1, signal: null });
        assert.match(destination.stderr, /nothing was heard of the source for 3 s/);
        source.kill('SIGCONT');
        await untilNow(source, 'failed');
      }
      assert.equal(await source.runState(), 'running');
      await source.untilMoreTicks();
    }
    await source.qmp.execute('stop');
    checkMemory(await saveMemory(source, folder, { lengthBytes: 16 * 2 ** 20 }));
    assertOneGuest(source.console);
  });

  test('killed while it is paused: the other side stays paused, and can be told to end', async (t) => {
    for (const [killed, other] of [
      ['source', 'destination'],
      ['destination', 'source'],
    ] as const) {
      const pair = await startPair(t, { memoryMib: 16, rangeMib: 8, guest: 'random', args: POSTCOPY });
      await pair.source.set(SLOW);
      await pair.source.migrate(await pair.destination.address());
      await pair.source.untilStatus('active');
      await pair.source.qmp.execute('migrate-start-postcopy');
      await until('the guest to run there', async () => (await pair.destination.runState()) === 'running');
      await until('a request', async () => ((await pair.source.info()).ram?.['postcopy-requests'] ?? 0) > 0);
      await pair.source.qmp.execute('migrate-pause');
      for (const vm of [pair.source, pair.destination]) await untilNow(vm, 'postcopy-paused');
      pair[killed].kill('SIGKILL');
      await pair[killed].untilExit();
      assert.equal((await pair[other].info()).status, 'postcopy-paused');
      assert.equal(await pair[other].runState(), killed === 'source' ? 'running' : 'postmigrate');
      if (killed === 'destination') {
        const resume = { uri: 'tcp:127.0.0.1:1', resume: true };
        await assert.rejects(pair.source.qmp.execute('migrate', resume), /not recovered: .*refused/);
      } else await pair.destination.qmp.execute('migrate-recover', { uri: 'tcp:127.0.0.1:0' });
      assert.deepEqual(await pair[other].quit(), { code: 0, signal: null });
    }
  });
});
