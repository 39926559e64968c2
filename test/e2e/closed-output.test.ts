/**
 * Whoever reads what the program prints may go away: it goes on or ends, and does not turn in a circle over it.
 */
import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { test } from 'node:test';
import { until } from '../support/until.ts';
import { spawnProgram } from '../support/vm-process.ts';

test('a program whose output nobody reads any more ends as it would', { timeout: 60_000 }, async (t) => {
  const child = spawnProgram(t, ['--help']);
  child.stdout?.destroy();
  child.stderr?.destroy();
  assert.deepEqual(await child.exit, { code: 0, signal: null });
});

test('a relay whose messages nobody reads any more goes on, and ends when told', {
  timeout: 60_000,
}, async (t) => {
  const child = spawnProgram(t, ['relay', 'tcp:127.0.0.1:0', 'tcp:127.0.0.1:1']);
  let said = '';
  child.stderr?.on('data', (bytes) => (said += bytes));
  const port = await until('its address', () => /tcp:127\.0\.0\.1:(\d+)/.exec(said)?.[1]);
  child.stderr?.destroy();
  child.stdout?.destroy();
  const stranger = connect(Number(port), '127.0.0.1');
  stranger.on('error', () => {});
  await new Promise((resolve) => stranger.write('this is no migration', resolve));
  child.kill('SIGTERM');
  const { code } = await child.exit;
  assert(code === 143 || code === 1, `exit code ${code}`);
});
