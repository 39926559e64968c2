/**
 * Whole migrations over each transport, through files and commands also.
 */
import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { suite, test } from 'node:test';
import { POSTCOPY, proveMove, SLOW, startPair, startSource, untilCompleted } from '../support/pair.ts';
import { skipUnless } from '../support/requirements.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { until } from '../support/until.ts';
import { runProgram, VmProcess } from '../support/vm-process.ts';

const hasIpv6 = Object.values(networkInterfaces()).some((addresses) =>
  addresses?.some(({ address }) => address === '::1'),
);

suite('transports', { timeout: 400_000 }, () => {
  for (const incoming of ['unix:{folder}/migration', 'tcp:[::1]:0']) {
    test(`a guest moves by postcopy over ${incoming}`, async (t) => {
      if (incoming.includes('::1') && !skipUnless(t, 'IPv6', hasIpv6, 'this host has no address ::1')) return;
      const pair = await startPair(t, { incoming, args: POSTCOPY });
      const { source, destination } = pair;
      await source.set({ ...SLOW, 'x-postcopy-start-time': 200 });
      await source.migrate(await destination.address());
      await untilCompleted(pair);
      await proveMove(pair);
      assert.equal((await source.info())['x-postcopy-cause'], 'start-time');
    });
  }

  for (const { name, outgoing, incoming } of [
    { name: 'exec:', outgoing: "exec:cat > '{folder}/saved'", incoming: "exec:cat '{folder}/saved'" },
    { name: 'file:', outgoing: 'file:{folder}/saved', incoming: 'file:{folder}/saved' },
  ]) {
    test(`a guest is saved to ${name} and goes on when restored from it`, async (t) => {
      const folder = tempFolder(t);
      const source = await startSource(t, folder, { memoryMib: 64 });
      await source.set({ 'downtime-limit': 2000 });
      await source.migrate(outgoing.replace('{folder}', folder));
      await source.untilStatus('completed');
      assert.equal(await source.runState(), 'postmigrate');
      assert(statSync(join(folder, 'saved')).size > 8 * 2 ** 20);

      const uri = incoming.replace('{folder}', folder);
      const args = ['--memory', '64M', '--incoming', uri];
      const destination = await VmProcess.start(t, folder, 'destination', args);
      await destination.untilStatus('completed');
      await proveMove({ folder, source, destination, memoryBytes: 64 * 2 ** 20 });
    });
  }

  test('a saved guest can be restored twice, and a cut file is refused', async (t) => {
    const folder = tempFolder(t);
    const path = join(folder, 'saved');
    const source = await startSource(t, folder, { memoryMib: 32 });
    await source.qmp.execute('stop');
    await source.migrate(`file:${path}`);
    await source.untilStatus('completed');
    assert.deepEqual(await source.quit(), { code: 0, signal: null });
    for (const name of ['first', 'second']) {
      const args = ['--memory', '32M', '--incoming', `file:${path}`];
      const restored = await VmProcess.start(t, folder, name, args);
      await restored.untilStatus('completed');
      assert.equal(await restored.runState(), 'paused');
      await restored.qmp.execute('cont');
      await restored.untilTicks(1);
      restored.kill('SIGKILL');
    }
    const command = `exec:head -c 4000000 '${path}'`;
    const cut = await VmProcess.start(t, folder, 'cut', ['--memory', '32M', '--incoming', 'defer']);
    await cut.qmp.execute('migrate-incoming', { uri: command });
    assert.deepEqual(await cut.untilExit(), { code: 1, signal: null });
    assert.match(cut.stderr, /the stream ended|ends/i);
  });

  test('a unix path is free again when its process was killed', async (t) => {
    const folder = tempFolder(t);
    const args = ['--memory', '32M', '--incoming', `unix:${join(folder, 'migration')}`];
    const killed = await VmProcess.start(t, folder, 'killed', args);
    const rival = await runProgram(t, ['run', '--serial', 'null', ...args]);
    assert.equal(rival.code, 1);
    assert.match(rival.stderr, /address already in use \(is another destination listening there\?\)/);
    killed.kill('SIGKILL');
    await killed.untilExit();
    const next = await VmProcess.start(t, folder, 'next', args);
    await until('the address', async () => (await next.info())['socket-address'] !== undefined);
    assert.deepEqual(await next.quit(), { code: 0, signal: null });
  });

  test('a command that fails before it has everything fails the migration, and the guest runs on', async (t) => {
    const source = await startSource(t, tempFolder(t), { memoryMib: 32 });
    await source.migrate('exec:exit 4');
    await failed(source);
    await until('the guest to run', async () => (await source.runState()) === 'running');
    await source.untilMoreTicks();
  });

  test('a command that fails when it has everything leaves the guest to the operator', async (t) => {
    const source = await startSource(t, tempFolder(t), { memoryMib: 32 });
    await source.migrate('exec:cat > /dev/null; exit 3');
    await failed(source);
    await source.untilSaid(/exited with code 3.*It may run the guest: look there/);
    await until('the guest to be paused', async () => (await source.runState()) === 'paused');
    await source.qmp.execute('cont');
    await source.untilMoreTicks();
  });
});

async function failed(source: VmProcess): Promise<void> {
  await until(
    'the failure',
    async () => (await source.info()).status === 'failed',
    () => source.describe(),
  );
}
