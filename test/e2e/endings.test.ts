/**
 * Every way to end one side of a migration, in every state of it: its exit code, what it leaves behind, what the other side does.
 *
 * Each state meets one way, and each way several states; POSTCOPY_TEST_ALL_ENDINGS=1 tries all of them with each other.
 */
import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { suite, type TestContext, test } from 'node:test';
import { atEnd } from '../support/cleanup.ts';
import { startFullListener } from '../support/full-listener.ts';
import { HmpClient } from '../support/hmp-client.ts';
import { type Pair, POSTCOPY, startPair } from '../support/pair.ts';
import { until } from '../support/until.ts';
import type { Exit, VmProcess } from '../support/vm-process.ts';

const SLOW = { 'max-bandwidth': 512 * 1024, 'max-postcopy-bandwidth': 256 * 1024, 'downtime-limit': 1 };
const EVERYTHING = { 'max-bandwidth': 0, 'max-postcopy-bandwidth': 0 };

type Side = 'source' | 'destination';

/** What is to be seen of the other side. */
type Aftermath = 'unchanged' | 'runs on' | 'paused' | 'exits with 1';

interface Stage {
  readonly name: string;
  reach(t: TestContext, pair: Pair): Promise<void>;
  /** What `migrate_cancel` at the source says, where it cannot do it; twice. */
  readonly refusal?: RegExp;
  /** If this side ends, what becomes of the other; a side that is not named is not in this stage. */
  readonly ends: Partial<Record<Side, Aftermath>>;
}

const CANNOT_CANCEL = /Postcopy migration in progress, cannot cancel/;

const STAGES: readonly Stage[] = [
  {
    name: 'connecting',
    reach: async (t, { source }) => {
      source.qmp.post('migrate', { uri: await startFullListener(t) });
      await source.untilStatus('setup');
    },
    ends: { source: 'unchanged' },
  },
  { name: 'listening', reach: async () => {}, ends: { destination: 'unchanged' } },
  {
    name: 'active',
    reach: (_t, pair) => intoPrecopy(pair),
    ends: { source: 'exits with 1', destination: 'runs on' },
  },
  {
    name: 'postcopy-device',
    reach: async (_t, pair) => {
      await intoPrecopy(pair);
      pair.destination.kill('SIGSTOP');
      await pair.source.qmp.execute('migrate-start-postcopy');
      await pair.source.untilStatus('postcopy-device');
    },
    ends: { source: 'exits with 1' },
  },
  {
    name: 'postcopy-active',
    reach: (_t, pair) => intoPostcopy(pair),
    refusal: CANNOT_CANCEL,
    ends: { source: 'paused', destination: 'paused' },
  },
  {
    name: 'postcopy-paused',
    reach: (_t, pair) => intoPause(pair),
    refusal: CANNOT_CANCEL,
    ends: { source: 'paused', destination: 'paused' },
  },
  {
    name: 'postcopy-recover-setup',
    reach: async (t, pair) => {
      await intoPause(pair);
      await pair.destination.qmp.execute('migrate-recover', { uri: `unix:${join(pair.folder, 'recovery')}` });
      pair.source.qmp.post('migrate', { uri: await startFullListener(t), resume: true });
      await pair.source.untilStatus('postcopy-recover-setup');
    },
    ends: { source: 'paused', destination: 'unchanged' },
  },
  {
    name: 'postcopy-recover',
    reach: async (t, pair) => {
      await intoPause(pair);
      const path = join(pair.folder, 'recovery');
      await pair.destination.qmp.execute('migrate-recover', { uri: `unix:${path}` });
      const mute = connect(path).on('error', () => {});
      atEnd(t, () => mute.destroy());
      const deafPath = join(pair.folder, 'deaf');
      const deaf = createServer({ pauseOnConnect: true }, (socket) => atEnd(t, () => socket.destroy()));
      deaf.listen(deafPath);
      atEnd(t, () => deaf.close());
      await pair.source.qmp.execute('migrate', { uri: `unix:${deafPath}`, resume: true });
      for (const vm of [pair.source, pair.destination]) await untilNow(vm, 'postcopy-recover');
    },
    refusal: CANNOT_CANCEL,
    ends: { source: 'unchanged', destination: 'unchanged' },
  },
  {
    name: 'completed',
    reach: async (_t, pair) => {
      await intoPostcopy(pair);
      await pair.source.set(EVERYTHING);
      for (const vm of [pair.source, pair.destination]) await untilNow(vm, 'completed');
    },
    ends: { source: 'unchanged', destination: 'unchanged' },
  },
  {
    name: 'failed',
    reach: async (_t, { source, folder }) => {
      await assert.rejects(source.migrate(`unix:${join(folder, 'nobody')}`), /nobody/);
      await untilNow(source, 'failed');
    },
    ends: { source: 'unchanged' },
  },
];

/** Each asks the process to end, and says how it is to end then. */
const WAYS = {
  'quit at the machine protocol': async (vm: VmProcess): Promise<Exit> => {
    vm.qmp.post('quit');
    return { code: 0, signal: null };
  },
  'quit at the human monitor': async (vm: VmProcess): Promise<Exit> => {
    const socket = connect(`${vm.folder}/${vm.name}.hmp`);
    const human = await HmpClient.connect({ stdin: socket, stdout: socket });
    human.post('quit');
    return { code: 0, signal: null };
  },
  SIGINT: async (vm: VmProcess): Promise<Exit> => {
    vm.kill('SIGINT');
    return { code: 130, signal: null };
  },
  SIGTERM: async (vm: VmProcess): Promise<Exit> => {
    vm.kill('SIGTERM');
    return { code: 143, signal: null };
  },
};
type Way = keyof typeof WAYS;
const WAY_NAMES = Object.keys(WAYS) as Way[];

const wantsAll = !['', '0', undefined].includes(process.env['POSTCOPY_TEST_ALL_ENDINGS']);

async function intoPrecopy({ source, destination }: Pair): Promise<void> {
  await source.set(SLOW);
  await source.migrate(await destination.address());
  for (const vm of [source, destination]) await vm.untilStatus('active');
}

async function intoPostcopy(pair: Pair): Promise<void> {
  const { source, destination } = pair;
  await intoPrecopy(pair);
  await source.qmp.execute('migrate-start-postcopy');
  await until('the guest to run there', async () => (await destination.runState()) === 'running');
  await until('a request', async () => ((await source.info()).ram?.['postcopy-requests'] ?? 0) > 0);
}

async function intoPause(pair: Pair): Promise<void> {
  await intoPostcopy(pair);
  await pair.source.qmp.execute('migrate-pause');
  for (const vm of [pair.source, pair.destination]) await untilNow(vm, 'postcopy-paused');
}

async function untilNow(vm: VmProcess, status: string): Promise<void> {
  await until(
    `"${status}" at ${vm.name}`,
    async () => (await vm.info()).status === status,
    () => vm.describe(),
  );
}

/** Sockets in the test's folder, and whatever else a process might leave there. */
function filesOf(folder: string): string[] {
  return readdirSync(folder).filter((name) => !name.endsWith('.serial') && name !== 'deaf');
}

async function assertAftermath(stage: Stage, side: Side, pair: Pair): Promise<void> {
  const other = pair[side === 'source' ? 'destination' : 'source'];
  const aftermath = stage.ends[side];
  if (aftermath === 'exits with 1') {
    other.kill('SIGCONT');
    assert.deepEqual(await other.untilExit(), { code: 1, signal: null });
    return;
  }
  if (aftermath === 'runs on') {
    await untilNow(other, 'failed');
    await other.untilMoreTicks();
  }
  if (aftermath === 'paused') {
    await untilNow(other, 'postcopy-paused');
    assert.equal(await other.runState(), side === 'source' ? 'running' : 'postmigrate');
  }
  assert.deepEqual(await other.quit(), { code: 0, signal: null });
}

suite('endings', { timeout: 900_000 }, () => {
  let turn = 0;
  for (const stage of STAGES) {
    for (const side of Object.keys(stage.ends) as Side[]) {
      const ways = wantsAll ? WAY_NAMES : [WAY_NAMES[turn++ % WAY_NAMES.length] as Way];
      for (const way of ways) {
        test(`${stage.name}: ${way} at the ${side}`, async (t) => {
          const monitors = (name: string) => ['--monitor', `unix:{folder}/${name}.hmp`];
          const pair = await startPair(t, {
            memoryMib: 16,
            rangeMib: 8,
            guest: 'random',
            args: POSTCOPY,
            incoming: 'unix:{folder}/migration',
            sourceArgs: monitors('source'),
            destinationArgs: monitors('destination'),
          });
          await stage.reach(t, pair);
          const { source } = pair;
          if (stage.refusal !== undefined) {
            await assert.rejects(source.qmp.execute('migrate_cancel'), stage.refusal);
            const human = { 'command-line': 'migrate_cancel' };
            assert.match(await source.qmp.execute('human-monitor-command', human), stage.refusal);
          }
          const ended = pair[side];

          const exit = await WAYS[way](ended);

          assert.deepEqual(await ended.untilExit(), exit);
          await assertAftermath(stage, side, pair);
          for (const vm of [pair.source, pair.destination])
            assert.doesNotMatch(vm.stderr, /internal|died|Error:|\n\s+at /);
          assert.deepEqual(filesOf(pair.folder), []);
          assert(!existsSync(join(pair.folder, 'migration')));
        });
      }
    }
  }

  test('a second signal ends a process at once that is slow to end', async (t) => {
    const pair = await startPair(t, { memoryMib: 16, rangeMib: 8, args: POSTCOPY });
    await intoPrecopy(pair);
    // Its last word is for a source that does not read it: it would wait for that a while.
    pair.source.kill('SIGSTOP');
    pair.destination.kill('SIGTERM');
    pair.destination.kill('SIGINT');
    const { code } = await pair.destination.untilExit();
    assert(code === 130 || code === 143, `code ${code}`);
    pair.source.kill('SIGCONT');
    await untilNow(pair.source, 'failed');
  });
});
