/**
 * Processes that die, or are told to end, at every stage of a migration: what the other side does, and says.
 */
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { HEADER_OFFSET } from '../../src/machine/guest-check.ts';
import { checkMemory, saveMemory } from '../support/guest-memory.ts';
import { type Pair, type PairOptions, POSTCOPY, SLOW, startPair } from '../support/pair.ts';
import { receivedRuns } from '../support/received-pages.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { assertOneGuest } from '../support/ticks.ts';
import { until } from '../support/until.ts';
import { VmProcess } from '../support/vm-process.ts';

const TERMINATED = { code: 143, signal: null };
const PAGE = 4096;
const FINE = { code: 0, signal: null };
/** Of processor time, in a hundredth of a second: what an idle process may use while the others are watched. */
const IDLE_CPU_TICKS = 20;

type Test = Parameters<typeof startPair>[0];

/** A pair whose precopy goes on for long. */
async function inPrecopy(t: Test): Promise<Pair> {
  const pair = await startPair(t, { memoryMib: 32 });
  await pair.source.set({ ...SLOW, 'downtime-limit': 1 });
  await pair.source.migrate(await pair.destination.address());
  await pair.source.untilStatus('active');
  await pair.destination.untilStatus('active');
  return pair;
}

/** A pair whose postcopy goes on for long: the guest runs at the destination, most of its pages are at the source. */
async function inPostcopy(t: Test, options: PairOptions = {}): Promise<Pair> {
  const pair = await startPair(t, {
    memoryMib: 32,
    rangeMib: 16,
    guest: 'random',
    args: POSTCOPY,
    ...options,
  });
  const { source, destination } = pair;
  await source.set({ 'max-bandwidth': 512 * 1024, 'max-postcopy-bandwidth': 256 * 1024 });
  await source.migrate(await destination.address());
  await source.untilStatus('active');
  await source.qmp.execute('migrate-start-postcopy');
  await source.untilStatus('postcopy-active');
  await until('the guest to run there', async () => (await destination.runState()) === 'running');
  return pair;
}

/** Whether a page holds what the guest had at the source; it may have gone on with it, in the words that it changes. */
function isOfSameGuest(offset: number, here: Buffer, there: Buffer): boolean {
  if (here.equals(there) || offset < HEADER_OFFSET) return true;
  // See src/machine/guest-check.ts: magic to pages of the header; number and nonce of a page of the range.
  const [from, to] = offset === HEADER_OFFSET ? [0, 0x14] : [4, 12];
  return here.subarray(from, to).equals(there.subarray(from, to));
}

/** Fails if the process uses the processor while nothing is to be done. */
async function assertIdle(vm: VmProcess): Promise<void> {
  const used = vm.cpuTicks;
  const fromMs = performance.now();
  await until('half a second', () => performance.now() - fromMs > 500);
  assert(
    vm.cpuTicks - used < IDLE_CPU_TICKS,
    `${vm.name} used ${vm.cpuTicks - used} ticks of processor time`,
  );
}

suite('connection loss', { timeout: 400_000 }, () => {
  test('before the switch, the guest runs on at the source when the destination is killed', async (t) => {
    const { folder, source, destination, memoryBytes } = await inPrecopy(t);
    destination.kill('SIGKILL');
    await source.untilStatus('failed');
    assert.match(
      (await source.info())['error-desc'] ?? '',
      /^Connection lost before the guest was handed over: /,
    );
    await source.untilSaid(/Connection lost before the guest was handed over/);
    assert.equal(await source.runState(), 'running');
    await source.untilMoreTicks();
    await source.qmp.execute('stop');
    checkMemory(await saveMemory(source, folder, { lengthBytes: memoryBytes }));
    assertOneGuest(source.console);
    assert.deepEqual(await source.quit(), FINE);
  });

  test('before the switch, a destination whose source is killed ends with code 1', async (t) => {
    const { source, destination } = await inPrecopy(t);
    source.kill('SIGKILL');
    assert.deepEqual(await destination.untilExit(), { code: 1, signal: null });
    await destination.untilSaid(/^postcopy: (?!internal).*(ended|closed|reset|lost)/m);
  });

  test('in postcopy, a source whose destination is killed pauses, keeps the pages and stays quiet', async (t) => {
    const { folder, source, destination, memoryBytes } = await inPostcopy(t);
    destination.kill('SIGKILL');
    await source.untilStatus('postcopy-paused');
    await source.untilSaid(/Connection lost in postcopy: .* pages of it are only here/);
    assert.equal(await source.runState(), 'postmigrate');
    await assert.rejects(source.qmp.execute('cont'), /runs at the destination/);
    await assert.rejects(source.migrate('tcp:127.0.0.1:1'), /in progress|moved away/);
    await assertIdle(source);
    checkMemory(await saveMemory(source, folder, { lengthBytes: memoryBytes }));
    assert.deepEqual(await source.quit(), FINE);
  });

  test('in postcopy, a destination whose source is killed keeps its guest waiting, and reads no zeros', async (t) => {
    const { folder, source, destination, memoryBytes } = await inPostcopy(t);
    const original = await saveMemory(source, folder, { lengthBytes: memoryBytes });
    source.kill('SIGKILL');
    await destination.untilStatus('postcopy-paused');
    await destination.untilSaid(/Connection lost in postcopy: .* pages that are only at the source/);
    assert.equal(await destination.runState(), 'running');
    await until(
      'the guest to wait for a page',
      async () => {
        const used = destination.cpuTicks;
        const fromMs = performance.now();
        await until('a moment', () => performance.now() - fromMs > 200);
        return destination.cpuTicks - used < 5;
      },
      () => destination.describe(),
    );
    await assert.rejects(destination.qmp.execute('stop'), /waits for a page that is only at the source/);

    const { runs, missingPage } = await receivedRuns(destination);
    assert(runs.length > 0 && missingPage !== undefined, 'some pages have come and some are missing');
    const damaged: number[] = [];
    for (const { firstPage, pageCount } of runs.slice(0, 50)) {
      const range = { offset: firstPage * PAGE, lengthBytes: pageCount * PAGE };
      const here = await saveMemory(destination, folder, range);
      for (let at = 0; at < here.length; at += PAGE) {
        const offset = range.offset + at;
        const there = original.subarray(offset, offset + PAGE);
        if (!isOfSameGuest(offset, here.subarray(at, at + PAGE), there)) damaged.push(offset / PAGE);
      }
    }
    assert.deepEqual(damaged, []);

    // Who asks for a page that is missing waits as the guest does, and keeps nobody from ending this.
    const other = await destination.connectQmp();
    other.post('pmemsave', { val: (missingPage ?? 0) * PAGE, size: PAGE, filename: `${folder}/missing` });
    await assertIdle(destination);
    assert.deepEqual(await destination.quit(), FINE);
    other.close();
  });

  test('SIGTERM ends a destination that waits, and one in precopy, in good order', async (t) => {
    const waiting = await VmProcess.start(t, tempFolder(t), 'waiting', ['--incoming', 'tcp:127.0.0.1:0']);
    waiting.kill('SIGTERM');
    assert.deepEqual(await waiting.untilExit(), TERMINATED);

    const { source, destination } = await inPrecopy(t);
    destination.kill('SIGTERM');
    assert.deepEqual(await destination.untilExit(), TERMINATED);
    await source.untilStatus('failed');
    await source.untilMoreTicks();
    source.kill('SIGTERM');
    assert.deepEqual(await source.untilExit(), TERMINATED);
    assert.doesNotMatch(source.stderr + destination.stderr, /internal|died/);
  });

  test('SIGTERM ends a source in precopy in good order', async (t) => {
    const { source, destination } = await inPrecopy(t);
    source.kill('SIGTERM');
    assert.deepEqual(await source.untilExit(), TERMINATED);
    assert.deepEqual(await destination.untilExit(), { code: 1, signal: null });
    assert.doesNotMatch(source.stderr + destination.stderr, /internal|died/);
  });

  test('SIGTERM ends a source in postcopy, and a destination whose guest waits, in good order', async (t) => {
    const { source, destination } = await inPostcopy(t);
    source.kill('SIGTERM');
    assert.deepEqual(await source.untilExit(), TERMINATED);
    await destination.untilStatus('postcopy-paused');
    destination.kill('SIGTERM');
    assert.deepEqual(await destination.untilExit(), TERMINATED);
    assert.doesNotMatch(source.stderr + destination.stderr, /internal|died/);
  });

  test('SIGTERM ends a destination in postcopy, and a source that keeps its pages, in good order', async (t) => {
    const { source, destination } = await inPostcopy(t);
    destination.kill('SIGTERM');
    assert.deepEqual(await destination.untilExit(), TERMINATED);
    await source.untilStatus('postcopy-paused');
    source.kill('SIGTERM');
    assert.deepEqual(await source.untilExit(), TERMINATED);
    assert.doesNotMatch(source.stderr + destination.stderr, /internal|died/);
  });
});
