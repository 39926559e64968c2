/**
 * Migrations of real QEMUs through a relay: the guest arrives whole, and the relay has understood what it saw.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite, type TestContext, test } from 'node:test';
import type { StreamReport } from '../../src/inspect/stream-report.ts';
import { RelayProcess } from '../support/relay-process.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { until } from '../support/until.ts';
import { runProgram } from '../support/vm-process.ts';
import { MOVER, needsQemu, Qemu, type QemuOptions } from './qemu.ts';

const POSTCOPY = { 'postcopy-ram': true } as const;
/** Slow enough for the switch to come in time: RAM does not fit into it. */
const SLOW = { 'max-bandwidth': 4 * 2 ** 20, 'downtime-limit': 1 } as const;

interface Relayed {
  readonly folder: string;
  readonly source: Qemu;
  readonly destination: Qemu;
  readonly relay: RelayProcess;
}

async function startRelayed(
  t: TestContext,
  options: QemuOptions,
  relayArgs: (folder: string) => readonly string[] = () => [],
): Promise<Relayed> {
  const folder = tempFolder(t);
  const incoming = `unix:${join(folder, 'in')}`;
  const [source, destination] = await Promise.all([
    Qemu.start(t, folder, { program: MOVER, memoryMib: 32, rangeMib: 8, ...options, name: 'source' }),
    Qemu.start(t, folder, {
      program: MOVER,
      memoryMib: 32,
      rangeMib: 8,
      ...options,
      name: 'destination',
      incoming,
    }),
  ]);
  const relay = await RelayProcess.start(t, incoming, { args: relayArgs(folder) });
  await source.untilMoreTicks(1);
  return { folder, source, destination, relay };
}

/** Whether somebody listens there; looked up, since a connection would be taken for one of the source. */
async function isOpen(address: string): Promise<boolean> {
  const port = Number(address.split(':').at(-1)).toString(16).toUpperCase().padStart(4, '0');
  return new RegExp(`:${port} [0-9A-F:]+ 0A `).test(readFileSync('/proc/net/tcp', 'latin1'));
}

suite('a relay between two QEMUs', { timeout: 400_000 }, () => {
  for (const machine of ['pc', 'q35']) {
    test(`passes a precopy of a ${machine} on`, async (t) => {
      if (!needsQemu(t)) return;
      const { source, destination, relay } = await startRelayed(t, { machine });
      await source.qmp.execute('migrate', { uri: relay.address });
      assert.equal(await source.migrationEnd(), 'completed', source.describe());
      await destination.untilStatus('completed');
      await destination.untilMoreTicks();
      assert.equal((await destination.proveOneEdge()).guest, 'counter');
      assert.deepEqual(await relay.untilExit(), { code: 0, signal: null }, relay.stderr);
      const { report } = relay;
      assert.equal(report.state, 'completed');
      assert.deepEqual(
        report.states.map(({ state }) => state),
        ['setup', 'active', 'device', 'completed'],
      );
      assert(report.precopyPages.normal + report.precopyPages.zero >= (32 * 2 ** 20) / 4096);
      assert(report.passes >= 2);
      assert.equal(report.requests.count, 0);
    });
  }

  test('passes a precopy on that is acknowledged, with XBZRLE', async (t) => {
    if (!needsQemu(t)) return;
    const { source, destination, relay } = await startRelayed(t, {
      capabilities: { 'return-path': true, xbzrle: true },
      parameters: { 'max-bandwidth': 20 * 2 ** 20, 'downtime-limit': 50 },
    });
    await source.qmp.execute('migrate', { uri: relay.address });
    assert.equal(await source.migrationEnd(), 'completed', source.describe());
    await destination.untilStatus('completed');
    await destination.proveOneEdge();
    assert.deepEqual(await relay.untilExit(), { code: 0, signal: null }, relay.stderr);
    assert.equal(relay.report.isConfirmed, true);
    assert.equal(relay.report.commands['OPEN_RETURN_PATH'], 1);
  });

  test('passes a postcopy on, sees its requests, and keeps what the destination got', async (t) => {
    if (!needsQemu(t)) return;
    const { folder, source, destination, relay } = await startRelayed(
      t,
      { guest: 'random', smp: 2, capabilities: POSTCOPY, parameters: SLOW },
      (temp) => ['--record', join(temp, 'record')],
    );
    await source.qmp.execute('migrate', { uri: relay.address });
    await source.untilStatus('active');
    await source.qmp.execute('migrate-start-postcopy');
    assert.equal(await source.migrationEnd(), 'completed', source.describe());
    await destination.untilStatus('completed');
    await destination.untilMoreTicks();
    assert.equal((await destination.proveOneEdge()).guest, 'random');
    assert.deepEqual(await relay.untilExit(), { code: 0, signal: null }, relay.stderr);
    const { report } = relay;
    assert.equal(report.isConfirmed, true);
    assert.deepEqual(
      report.states.map(({ state }) => state),
      ['setup', 'active', 'device', 'postcopy-active', 'completed'],
    );
    assert(report.requests.count > 0);
    assert((report.requests.latencyUs?.count ?? 0) > 0);
    assert(report.postcopyPages.normal > 0);
    assert.equal(report.discards.pages, report.postcopyPages.normal + report.postcopyPages.zero);
    assert.equal(report.commands['PACKAGED'], 1);

    assert.equal(readFileSync(join(folder, 'record')).length, report.streamBytes);
    const inspected = await runProgram(t, ['inspect', '--json', join(folder, 'record')]);
    assert.equal(inspected.code, 0, inspected.stderr);
    const record = JSON.parse(inspected.stdout) as StreamReport;
    assert.equal(record.kind, 'postcopy');
    assert.equal(record.isComplete, true);
    assert(record.devices.some(({ idstr }) => idstr === 'globalstate'));
  });

  test('passes the recovery of a postcopy on', async (t) => {
    if (!needsQemu(t)) return;
    const { folder, source, destination, relay } = await startRelayed(
      t,
      {
        guest: 'random',
        capabilities: POSTCOPY,
        parameters: { ...SLOW, 'max-postcopy-bandwidth': 512 * 1024 },
      },
      (temp) => ['--record', join(temp, 'record')],
    );
    await source.qmp.execute('migrate', { uri: relay.address });
    await source.untilStatus('active');
    await source.qmp.execute('migrate-start-postcopy');
    await source.untilStatus('postcopy-active');
    await relay.untilSaid(/postcopy-active/);
    // Before its guest runs, a destination that loses its source gives up.
    await until('the guest to run there', async () => (await destination.runState()) === 'running');
    await source.qmp.execute('migrate-pause');
    await source.untilStatus('postcopy-paused');
    await destination.untilStatus('postcopy-paused');
    await relay.untilSaid(/waiting for its recovery/);
    await destination.qmp.execute('migrate-recover', { uri: `unix:${join(folder, 'in')}` });
    await source.setParameters({ 'max-postcopy-bandwidth': 0 });
    await source.qmp.execute('migrate', { uri: relay.address, resume: true });
    assert.equal(await source.migrationEnd(), 'completed', source.describe());
    await destination.untilStatus('completed');
    await destination.untilMoreTicks();
    await destination.proveOneEdge();
    assert.deepEqual(await relay.untilExit(), { code: 0, signal: null }, relay.stderr);
    const { report } = relay;
    assert.equal(report.connections, 2);
    assert.deepEqual(report.states.map(({ state }) => state).slice(-4), [
      'postcopy-paused',
      'postcopy-recover',
      'postcopy-active',
      'completed',
    ]);
    const second = await runProgram(t, ['inspect', '--json', join(folder, 'record.2')]);
    assert.equal(second.code, 0, second.stderr);
    assert.equal((JSON.parse(second.stdout) as StreamReport).kind, 'recovery');
  });

  for (const { capability, others } of [
    { capability: 'multifd', others: {} },
    { capability: 'postcopy-preempt', others: POSTCOPY },
  ]) {
    test(`refuses ${capability}, and says what to switch off`, async (t) => {
      if (!needsQemu(t)) return;
      const { source, relay } = await startRelayed(t, {
        capabilities: { ...others, [capability]: true },
        parameters: SLOW,
      });
      await source.qmp.execute('migrate', { uri: relay.address });
      // A newer source opens the channel of postcopy-preempt only with the switch, when the relay takes no more of them.
      await relay.untilSaid(/: (active|failed)\n/);
      await until(
        'the address to be shut, or the end',
        async () => /failed/.test(relay.stderr) || !(await isOpen(relay.address)),
      );
      source.qmp.post('migrate-start-postcopy');
      assert.deepEqual(await relay.untilExit(), { code: 1, signal: null }, relay.stderr);
      assert.match(relay.stderr, new RegExp(`"${capability}".*off on both sides`));
      assert.equal(await source.migrationEnd(), 'failed');
      assert.equal(await source.runState(), 'running');
    });
  }
});
