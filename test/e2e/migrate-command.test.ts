/**
 * `postcopy migrate` drives two machines of our own, over the same monitors as two QEMUs.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { dirname } from 'node:path';
import { suite, type TestContext, test } from 'node:test';
import type { MigrationReport } from '../../src/drive/report.ts';
import { type Pair, proveMove, quitBoth, startPair } from '../support/pair.ts';
import { TcpProxy } from '../support/tcp-proxy.ts';
import { until } from '../support/until.ts';
import { runProgram } from '../support/vm-process.ts';

const sides = ({ folder }: Pair) => [
  '--qmp',
  `unix:${folder}/source.qmp`,
  '--to',
  `${folder}/destination.qmp`,
];

async function migrate(t: TestContext, pair: Pair, ...args: readonly string[]) {
  const { code, stdout, stderr } = await runProgram(t, ['migrate', '--json', ...sides(pair), ...args]);
  assert.equal(stderr, '');
  const report = JSON.parse(stdout) as MigrationReport;
  assert.equal(report.exitCode, code);
  return report;
}

/** A driven migration through a slow network, once the guest runs at the destination. */
async function inPostcopy(t: TestContext, ...args: readonly string[]) {
  const pair = await startPair(t, { guest: 'random', memoryMib: 32, rangeMib: 16 });
  const port = Number(/\d+$/.exec(await pair.destination.address())?.[0]);
  const proxy = await TcpProxy.start(t, port, 4 * 2 ** 20);
  const slow = ['--max-bandwidth', '1M', '--uri', proxy.uri, '--postcopy-after', '1ms'];
  const migrated = migrate(t, pair, ...slow, ...args);
  await until('the guest to run there', async () => (await pair.destination.runState()) === 'running');
  return { pair, proxy, migrated };
}

suite('postcopy migrate with machines of ours', { timeout: 400_000 }, () => {
  test('precopy moves a guest, through a private socket that is gone afterwards', async (t) => {
    const pair = await startPair(t, { guest: 'reader', incoming: 'defer' });
    const report = await migrate(t, pair, '--max-bandwidth', '0');
    assert.equal(report.outcome, 'completed', report.text);
    const socket = /^unix:(.*\/postcopy-.*\/1)$/.exec(report.uri ?? '')?.[1] ?? '';
    assert.notEqual(socket, '');
    assert(!existsSync(dirname(socket)));
    assert.match(report.source?.program ?? '', /^postcopy \d/);
    assert.match(report.source?.machineType ?? '', /^v86-/);
    await proveMove(pair);
    await quitBoth(pair);
  });

  for (const how of [
    ['--postcopy-after', '200ms'],
    ['--postcopy', 'auto'],
  ]) {
    test(`${how.join(' ')} moves a guest that precopy would never; capabilities are afterwards as before`, async (t) => {
      const pair = await startPair(t);
      const capabilities = () => pair.source.qmp.execute('query-migrate-capabilities');
      const before = await capabilities();
      const report = await migrate(t, pair, '--max-bandwidth', '2M', ...how);
      assert.equal(report.outcome, 'completed', report.text);
      assert((report.postcopyBytes ?? 0) > 0);
      assert.equal(report.downtimeBy, 'destination');
      assert.deepEqual(await capabilities(), before);
      await proveMove(pair);
    });
  }

  test('a link that is cut in postcopy and comes back is recovered by itself', async (t) => {
    const { pair, proxy, migrated } = await inPostcopy(t);
    proxy.cut();
    await pair.destination.untilStatus('postcopy-paused');
    await proxy.mend();
    const report = await migrated;
    assert.equal(report.outcome, 'completed', report.text);
    assert.equal(report.recoveries, 1);
    await proveMove(pair);
  });

  test('a link that is cut in postcopy is reported, where no recovery is wanted', async (t) => {
    const { proxy, migrated } = await inPostcopy(t, '--recover-for', '0');
    proxy.cut();
    const report = await migrated;
    assert.equal(report.outcome, 'postcopy-paused', report.text);
    assert.equal(report.exitCode, 4);
    assert.match(report.text, /is paused, and was not recovered: it was told not to try/);
    assert.equal(report.guestAt, 'destination');
  });
});
