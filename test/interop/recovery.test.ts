/**
 * A postcopy of ours into a real QEMU, whose connection breaks and is made again: both hold to the same protocol of recovery.
 */
import assert from 'node:assert/strict';
import { suite, type TestContext, test } from 'node:test';
import { SnapshotSource } from '../../src/restore/snapshot-source.ts';
import { openSnapshot } from '../../src/snapshot/open-snapshot.ts';
import { connectChannel } from '../../src/transport/connect.ts';
import { encodePeerFeatures } from '../../src/wire/peer-features.ts';
import { encodePong } from '../../src/wire/return-path.ts';
import { atEnd } from '../support/cleanup.ts';
import { TcpProxy } from '../support/tcp-proxy.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { until } from '../support/until.ts';
import { NEWER_QEMU, needsNewerQemu, needsQemu, QEMU, Qemu } from './qemu.ts';
import { save } from './saved-guest.ts';

const VERSIONS = [
  ['QEMU', QEMU, needsQemu],
  ['a newer QEMU', NEWER_QEMU, needsNewerQemu],
] as const;
const OPTIONS = { guest: 'random', memoryMib: 64, rangeMib: 16 } as const;

async function portOf(qemu: Qemu): Promise<number> {
  const info = await qemu.qmp.execute<{ 'socket-address'?: { port: string }[] }>('query-migrate');
  return Number(info['socket-address']?.[0]?.port);
}

function untilSource(source: SnapshotSource, status: string): Promise<unknown> {
  return until(
    `the source to be ${status}`,
    () => source.status === status,
    () => `it is ${source.status}: ${source.error}`,
  );
}

/** A guest that QEMU saved is on its way into another QEMU, slowly, through a network that can be cut. */
async function inPostcopy(t: TestContext, program: string) {
  const saved = await save(t, { ...OPTIONS, program });
  const qemu = await Qemu.start(t, saved.folder, {
    ...{ ...OPTIONS, program },
    name: 'destination',
    incoming: 'tcp:127.0.0.1:0',
    capabilities: { 'postcopy-ram': true },
  });
  const port = await portOf(qemu);
  const proxy = await TcpProxy.start(t, port);
  const snapshot = await openSnapshot(saved.path);
  const source = new SnapshotSource(snapshot, await connectChannel(proxy.uri), {
    isFull: false,
    maxBytesPerSecond: 2 * 2 ** 20,
    pushFirst: [],
    quietBeforePushMs: 0,
    recording: undefined,
    isRecoverable: true,
  });
  atEnd(t, async () => {
    await source.close();
    snapshot.close();
  });
  await untilSource(source, 'postcopy-active');
  await until(
    'the guest to arrive',
    async () => (await qemu.runState()) !== 'inmigrate',
    () => `the source is ${source.status}: ${source.error}; ${qemu.describe()}`,
  );
  // The state that was saved, or QEMU's own idea of it.
  if ((await qemu.runState()) === 'paused') await qemu.qmp.execute('cont');
  await qemu.untilMoreTicks(1);
  return { qemu, source, proxy, port };
}

suite('recovery with QEMU', { timeout: 400_000 }, () => {
  for (const [name, program, isThere] of VERSIONS)
    test(`${name}, as the destination, is found again after each of several cuts, and the guest is whole`, async (t) => {
      if (!isThere(t)) return;
      const { qemu, source, proxy, port } = await inPostcopy(t, program);
      for (let round = 1; round <= 3; round++) {
        const remaining = (await source.query())?.ram?.remaining ?? 0;
        await until(
          'pages to be sent',
          async () => ((await source.query())?.ram?.remaining ?? 0) < remaining,
        );
        proxy.cut();
        await untilSource(source, 'postcopy-paused');
        await qemu.untilStatus('postcopy-paused');
        await qemu.qmp.execute('migrate-recover', { uri: `tcp:127.0.0.1:${port}` });
        await proxy.mend();
        await source.recover(await connectChannel(proxy.uri));
        await untilSource(source, 'postcopy-active');
        await qemu.untilStatus('postcopy-active');
        await qemu.untilMoreTicks(1);
        assert.equal((await source.query())?.['x-interruptions']?.recovered, round);
      }
      await untilSource(source, 'completed');
      assert.equal(await qemu.migrationEnd(), 'completed');
      await qemu.untilMoreTicks(2);
      await qemu.proveOneEdge();
    });

  for (const [name, program, isThere] of VERSIONS)
    test(`${name}, as the source, passes over what a destination of ours announces`, async (t) => {
      if (!isThere(t)) return;
      const folder = tempFolder(t);
      const common = { memoryMib: 32, rangeMib: 8, program, capabilities: { 'postcopy-ram': true } };
      const source = await Qemu.start(t, folder, { ...common, name: 'source' });
      const destination = await Qemu.start(t, folder, {
        ...common,
        name: 'destination',
        incoming: 'tcp:127.0.0.1:0',
      });
      const proxy = await TcpProxy.start(t, await portOf(destination));
      proxy.returnPath.prefix = encodePong(encodePeerFeatures(0xffff));
      await source.untilMoreTicks(1);
      await source.setParameters({ 'max-bandwidth': 4 * 2 ** 20 });
      await source.qmp.execute('migrate', { uri: proxy.uri });
      await source.qmp.execute('migrate-start-postcopy');
      assert.equal(await source.migrationEnd(), 'completed');
      assert.equal(proxy.returnPath.prefix, undefined, 'it was announced');
      await destination.untilMoreTicks(1);
    });
});
