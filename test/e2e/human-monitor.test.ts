/**
 * A migration as a person does it: at the human monitors of two processes.
 */
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { HmpClient } from '../support/hmp-client.ts';
import { inTime, until } from '../support/until.ts';
import { spawnProgram } from '../support/vm-process.ts';

suite('human monitor', { timeout: 400_000 }, () => {
  test('a guest is moved by hand, with a mistake on the way', async (t) => {
    const args = ['run', '--memory', '32M', '--monitor', 'stdio', '--capability', 'postcopy-ram=on'];
    const destinationProgram = spawnProgram(t, [...args, '--incoming', 'tcp:127.0.0.1:0']);
    const sourceProgram = spawnProgram(t, [...args, '--guest', 'counter', '--append', 'range=8M']);
    const [source, destination] = await Promise.all([
      HmpClient.connect(sourceProgram),
      HmpClient.connect(destinationProgram),
    ]);
    const address = await until('the address', async () => {
      return /socket address: \[?\s*(\S+)/.exec(await destination.run('info migrate'))?.[1];
    });
    assert.match(await destination.run('info status'), /paused \(inmigrate\)/);

    assert.match(await source.run('migrate tcp:127.0.0.1:1'), /connection refused/);
    assert.equal(await source.run('info status'), 'VM status: running');
    assert.equal(await source.run('migrate_set_parameter max-bandwidth 2'), '');
    assert.equal(await source.run(`migrate -d ${address}`), '');
    await until('precopy', async () => /status: active/.test(await source.run('info migrate')));
    assert.equal(await source.run('migrate_start_postcopy'), '');
    await until('the end', async () => /status: completed/.test(await source.run('info migrate')));

    assert.equal(await source.run('info status'), 'VM status: paused (postmigrate)');
    assert.match(await source.run('cont'), /runs at the destination/);
    assert.equal(await destination.run('info status'), 'VM status: running');
    source.post('quit');
    destination.post('q');
    assert.deepEqual(await inTime('the ends', Promise.all([sourceProgram.exit, destinationProgram.exit])), [
      { code: 0, signal: null },
      { code: 0, signal: null },
    ]);
  });
});
