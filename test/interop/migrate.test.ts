/**
 * `postcopy migrate` drives two real QEMUs, or two machines of ours, through every way in which a migration goes or fails.
 */
import assert from 'node:assert/strict';
import { truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { suite, type TestContext, test } from 'node:test';
import type { MigrationReport } from '../../src/drive/report.ts';
import { startPair } from '../support/pair.ts';
import { TcpProxy } from '../support/tcp-proxy.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { assertOneGuest } from '../support/ticks.ts';
import { inTime, until } from '../support/until.ts';
import { runProgram, spawnProgram } from '../support/vm-process.ts';
import { MOVER, needsQemu, Qemu, type QemuOptions } from './qemu.ts';

const MEMORY_MIB = 64;
/** More than these tests let a second carry: the guest writes all of it many times a second, and precopy never ends. */
const RANGE_MIB = 16;
const SLOW = ['--max-bandwidth', '8M'];

interface QemuPair {
  readonly folder: string;
  readonly source: Qemu;
  readonly destination: Qemu;
}

/** Two QEMUs with two processors and virtio devices, the guest at work in the first. */
async function startQemus(t: TestContext, options: QemuOptions = {}): Promise<QemuPair> {
  const folder = tempFolder(t);
  writeFileSync(`${folder}/disk`, '');
  truncateSync(`${folder}/disk`, 2 ** 20);
  const machine = {
    ...{ smp: 2, memoryMib: MEMORY_MIB, rangeMib: RANGE_MIB },
    extraArgs: [
      ...['-netdev', 'user,id=net', '-device', 'virtio-net-pci,netdev=net'],
      ...['-drive', `file=${folder}/disk,format=raw,if=virtio,file.locking=off`],
    ],
    ...options,
  };
  const source = await Qemu.start(t, folder, { program: MOVER, ...machine, name: 'source' });
  const destination = await Qemu.start(t, folder, {
    program: MOVER,
    ...machine,
    isPaused: false,
    name: 'destination',
    incoming: 'defer',
  });
  if (options.isPaused !== true) await source.untilMoreTicks();
  return { folder, source, destination };
}

const sides = ({ source, destination }: QemuPair) => ['--qmp', source.qmpPath, '--to', destination.qmpPath];

/** The command under test, with all that it has said so far. */
class Driver {
  said = '';
  readonly #child: ReturnType<typeof spawnProgram>;

  constructor(t: TestContext, args: readonly string[]) {
    this.#child = spawnProgram(t, ['migrate', ...args]);
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream?.on('data', (bytes) => (this.said += bytes));
    }
  }

  async untilSaid(pattern: RegExp): Promise<void> {
    await until(
      `the driver to say ${pattern}`,
      () => pattern.test(this.said),
      () => this.said,
    );
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  async exitCode(): Promise<number | null> {
    return (await inTime('the end of the driver', this.#child.exit, () => this.said, 90_000)).code;
  }
}

/** Runs it to its end. */
async function migrate(
  t: TestContext,
  args: readonly string[],
): Promise<{ code: number | null; report: MigrationReport }> {
  const { code, stdout, stderr } = await runProgram(t, ['migrate', '--json', ...args]);
  assert.equal(stderr, '');
  const report = JSON.parse(stdout) as MigrationReport;
  assert.equal(report.exitCode, code);
  return { code, report };
}

/** The guest runs at the destination as if nothing had been. */
async function proveMoved({ source, destination }: QemuPair): Promise<void> {
  await destination.untilMoreTicks();
  assert.equal(await source.runState(), 'postmigrate');
  assert.equal(await destination.runState(), 'running');
  const before = await source.proveOneEdge();
  const after = await destination.proveOneEdge();
  assert.equal(after.nonce, before.nonce);
  assert.equal(after.pagesChecked, (RANGE_MIB * 2 ** 20) / 4096);
  assertOneGuest(source.console, destination.console);
}

/** The guest runs at the source as if nothing had been. */
async function proveStayed({ source }: QemuPair): Promise<void> {
  assert.equal(await source.runState(), 'running');
  await source.untilMoreTicks();
  await source.proveOneEdge();
  assertOneGuest(source.console);
}

async function settingsOf(qemu: Qemu): Promise<unknown> {
  return [
    await qemu.qmp.execute('query-migrate-capabilities'),
    await qemu.qmp.execute('query-migrate-parameters'),
  ];
}

suite('postcopy migrate with QEMU', { timeout: 400_000 }, () => {
  for (const machine of ['pc', 'q35']) {
    test(`precopy moves a guest of ${machine}, and settings are afterwards as before`, async (t) => {
      if (!needsQemu(t)) return;
      const pair = await startQemus(t, { machine });
      const before = [await settingsOf(pair.source), await settingsOf(pair.destination)];
      const settings = ['--max-bandwidth', '0', '--downtime-limit', '2s', '--capability', 'xbzrle=on'];

      const { code, report } = await migrate(t, [...sides(pair), ...settings]);

      assert.equal(code, 0, report.text);
      assert.equal(report.outcome, 'completed');
      assert.equal(report.guestAt, 'destination');
      assert.equal(report.isGuestRunning, true);
      assert.match(report.source?.machineType ?? '', machine === 'pc' ? /^pc-i440fx-/ : /^pc-q35-/);
      assert((report.precopyBytes ?? 0) > 0 && report.postcopyBytes === 0);
      assert((report.totalMs ?? 0) > 0 && report.downtimeMs !== undefined && (report.passes ?? 0) > 1);
      assert.deepEqual([await settingsOf(pair.source), await settingsOf(pair.destination)], before);
      await proveMoved(pair);
    });

    test(`postcopy after a time moves a guest of ${machine} that precopy would never`, async (t) => {
      if (!needsQemu(t)) return;
      const pair = await startQemus(t, { machine });
      const blocktime = ['--capability', 'destination:postcopy-blocktime=on'];
      const { code, report } = await migrate(t, [
        ...sides(pair),
        ...SLOW,
        ...blocktime,
        '--postcopy-after',
        '500ms',
      ]);
      assert.equal(code, 0, report.text);
      assert((report.postcopy?.atMs ?? 0) >= 500);
      assert((report.postcopyBytes ?? 0) > 0 && (report.pageRequests ?? 0) > 0);
      assert.equal(typeof report.blocktimeMs, 'number');
      // Newer versions name the moment in which the guest stands still.
      const statuses = report.timeline
        .filter(({ side, status }) => side === 'source' && !status.endsWith('device'))
        .map(({ status }) => status);
      assert.deepEqual(statuses, ['setup', 'active', 'postcopy-active', 'completed']);
      await proveMoved(pair);
    });
  }

  test('--postcopy auto switches when the guest writes faster than its memory is sent', async (t) => {
    if (!needsQemu(t)) return;
    const pair = await startQemus(t);
    const { code, report } = await migrate(t, [
      ...sides(pair),
      '--max-bandwidth',
      '16M',
      '--postcopy',
      'auto',
    ]);
    assert.equal(code, 0, report.text);
    assert.match(report.postcopy?.why ?? '', /the guest writes at \d+ %|has not shrunk in 2 rounds/);
    assert((report.postcopyBytes ?? 0) > 0);
    await proveMoved(pair);
  });

  test('--postcopy auto does not switch when precopy converges', async (t) => {
    if (!needsQemu(t)) return;
    const pair = await startQemus(t, { guest: 'reader' });
    const { code, report } = await migrate(t, [...sides(pair), '--max-bandwidth', '0', '--postcopy', 'auto']);
    assert.equal(code, 0, report.text);
    assert.equal(report.postcopy, undefined);
    assert.equal(report.postcopyBytes, 0);
  });

  test('a paused guest moves and stays paused', async (t) => {
    if (!needsQemu(t)) return;
    const pair = await startQemus(t);
    await pair.source.qmp.execute('stop');
    const { code, report } = await migrate(t, [...sides(pair)]);
    assert.equal(code, 0, report.text);
    assert.equal(report.isGuestRunning, false);
    assert.equal(await pair.destination.runState(), 'paused');
    await pair.destination.qmp.execute('cont');
    await proveMoved(pair);
  });

  test('a destination that listens already at any port is taken as it is', async (t) => {
    if (!needsQemu(t)) return;
    const pair = await startQemus(t);
    await pair.destination.qmp.execute('migrate-incoming', { uri: 'tcp:0.0.0.0:0' });
    const { code, report } = await migrate(t, [
      ...sides(pair),
      '--max-bandwidth',
      '0',
      '--downtime-limit',
      '2s',
    ]);
    assert.equal(code, 0, report.text);
    assert.match(report.uri ?? '', /^tcp:127\.0\.0\.1:[1-9]\d*$/);
    await proveMoved(pair);
  });

  test('SIGINT cancels in precopy, and the guest runs on; a second attempt moves it', async (t) => {
    if (!needsQemu(t)) return;
    const pair = await startQemus(t);
    const before = await settingsOf(pair.source);
    const driver = new Driver(t, [...sides(pair), ...SLOW]);
    await driver.untilSaid(/source +active/);
    driver.signal('SIGINT');
    assert.equal(await driver.exitCode(), 3, driver.said);
    assert.match(driver.said, /CANCELLED: The migration was cancelled. The guest runs on at the source/);
    assert.deepEqual(await settingsOf(pair.source), before);
    await proveStayed(pair);

    await pair.source.qmp.execute('cont');
    const again = await Qemu.start(t, pair.folder, {
      program: MOVER,
      ...{ name: 'again', smp: 2, memoryMib: MEMORY_MIB, rangeMib: RANGE_MIB, incoming: 'defer' },
      extraArgs: [
        ...['-netdev', 'user,id=net', '-device', 'virtio-net-pci,netdev=net'],
        ...['-drive', `file=${pair.folder}/disk,format=raw,if=virtio,file.locking=off`],
      ],
    });
    const second = { ...pair, destination: again };
    const { code, report } = await migrate(t, [
      ...sides(second),
      '--max-bandwidth',
      '0',
      '--downtime-limit',
      '2s',
    ]);
    assert.equal(code, 0, report.text);
    await proveMoved(second);
  });

  test('SIGINT in postcopy says that it cannot be cancelled; a second one leaves the migration alone', async (t) => {
    if (!needsQemu(t)) return;
    const pair = await startQemus(t, { parameters: { 'max-postcopy-bandwidth': 2 ** 20 } });
    await pair.destination.qmp.execute('migrate-incoming', { uri: 'tcp:127.0.0.1:0' });
    const proxy = await TcpProxy.start(t, await portOf(pair.destination), 4 * 2 ** 20);
    const driver = new Driver(t, [...sides(pair), ...SLOW, '--uri', proxy.uri, '--postcopy-after', '100ms']);
    await driver.untilSaid(/source +postcopy-active/);
    driver.signal('SIGINT');
    await driver.untilSaid(/cannot be cancelled: the guest has left the source. Once more/);
    driver.signal('SIGINT');
    assert.equal(await driver.exitCode(), 5, driver.said);
    assert.match(driver.said, /INTERRUPTED: .* goes on without this program/);
    assert.match(driver.said, /stay as they were set/);
    assert.equal(await pair.source.migrationEnd(), 'completed');
    await proveMoved(pair);
  });

  test('a destination that is killed in precopy leaves the guest running at the source', async (t) => {
    if (!needsQemu(t)) return;
    const pair = await startQemus(t);
    const driver = new Driver(t, [...sides(pair), ...SLOW]);
    await driver.untilSaid(/source +active/);
    pair.destination.kill('SIGKILL');
    assert.equal(await driver.exitCode(), 1, driver.said);
    assert.match(driver.said, /FAILED: The migration has failed: .* The guest runs on at the source/);
    await proveStayed(pair);
  });

  test('a destination that ends behind a network that hides it is given up', async (t) => {
    if (!needsQemu(t)) return;
    const pair = await startQemus(t);
    // A server that takes everything and passes on nothing: the destination never gets a byte.
    const server = createServer((socket) => socket.resume().on('error', () => {}));
    await new Promise<void>((resolve) => server.listen(`${pair.folder}/hole`, resolve));
    t.after(() => server.close());
    await pair.destination.qmp.execute('migrate-incoming', { uri: 'tcp:127.0.0.1:0' });
    const driver = new Driver(t, [...sides(pair), ...SLOW, '--uri', `unix:${pair.folder}/hole`]);
    await driver.untilSaid(/source +active/);
    pair.destination.kill('SIGKILL');
    assert.equal(await driver.exitCode(), 1, driver.said);
    assert.match(driver.said, /FAILED: .*process has ended.* The guest runs on at the source/s);
    await proveStayed(pair);
  });

  test('a link that is cut in postcopy and comes back is recovered by itself', async (t) => {
    if (!needsQemu(t)) return;
    const pair = await startQemus(t);
    await pair.destination.qmp.execute('migrate-incoming', { uri: 'tcp:127.0.0.1:0' });
    const proxy = await TcpProxy.start(t, await portOf(pair.destination), 4 * 2 ** 20);
    const driver = new Driver(t, [...sides(pair), ...SLOW, '--uri', proxy.uri, '--postcopy-after', '100ms']);
    await until('the guest to run there', async () => (await pair.destination.runState()) === 'running');
    proxy.cut();
    await driver.untilSaid(/attempt 1 has failed: .*; the next one in 1 s/);
    await proxy.mend();
    assert.equal(await driver.exitCode(), 0, driver.said);
    assert.match(driver.said, /source +postcopy-recover\n/);
    assert.match(driver.said, /recovered +once/);
    await proveMoved(pair);
  });

  test('a link that stays cut is given up in time, with what to type by hand, which works', async (t) => {
    if (!needsQemu(t)) return;
    const pair = await startQemus(t);
    await pair.destination.qmp.execute('migrate-incoming', { uri: 'tcp:127.0.0.1:0' });
    const proxy = await TcpProxy.start(t, await portOf(pair.destination), 4 * 2 ** 20);
    const args = [
      ...sides(pair),
      ...SLOW,
      '--uri',
      proxy.uri,
      '--postcopy-after',
      '100ms',
      '--recover-for',
      '0',
    ];
    const driver = new Driver(t, args);
    await until('the guest to run there', async () => (await pair.destination.runState()) === 'running');
    proxy.cut();
    assert.equal(await driver.exitCode(), 4, driver.said);
    assert.match(
      driver.said,
      /PAUSED: The migration is paused, and was not recovered: it was told not to try/,
    );

    await proxy.mend();
    for (const [qemu, pattern] of [
      [pair.destination, /QMP +({"execute":"migrate-recover".*})\n/],
      [pair.source, /QMP +({"execute":"migrate",.*})\n/],
    ] as const) {
      await qemu.untilStatus('postcopy-paused');
      const line = JSON.parse(pattern.exec(driver.said)?.[1] ?? '');
      await qemu.qmp.execute(line.execute, line.arguments);
    }
    assert.equal(await pair.source.migrationEnd(), 'completed');
    await proveMoved(pair);
  });

  test('--join takes over a migration that is paused, and recovers it', async (t) => {
    if (!needsQemu(t)) return;
    const pair = await startQemus(t);
    await pair.destination.qmp.execute('migrate-incoming', { uri: 'tcp:127.0.0.1:0' });
    const port = await portOf(pair.destination);
    const proxy = await TcpProxy.start(t, port, 4 * 2 ** 20);
    const first = [
      ...sides(pair),
      ...SLOW,
      '--uri',
      proxy.uri,
      '--postcopy-after',
      '100ms',
      '--recover-for',
      '0',
    ];
    const driver = new Driver(t, first);
    await until('the guest to run there', async () => (await pair.destination.runState()) === 'running');
    proxy.cut();
    assert.equal(await driver.exitCode(), 4, driver.said);

    await proxy.mend();
    const join = [...sides(pair), '--join', '--uri', proxy.uri, '--listen-uri', `tcp:127.0.0.1:${port}`];
    const { code, report } = await migrate(t, join);
    assert.equal(code, 0, report.text);
    assert.equal(report.recoveries, 1);
    assert.equal(report.timeline[0]?.status, 'postcopy-paused');
    await proveMoved(pair);
    const again = await migrate(t, join);
    assert.match(
      again.report.text,
      /no migration under way that could be joined: its migration is "completed"/,
    );
  });

  test('a source that stands still is not waited for longer than was said', async (t) => {
    if (!needsQemu(t)) return;
    const pair = await startQemus(t);
    const driver = new Driver(t, [...sides(pair), ...SLOW, '--monitor-timeout', '1s']);
    await driver.untilSaid(/source +active/);
    pair.source.kill('SIGSTOP');
    assert.equal(await driver.exitCode(), 6, driver.said);
    assert.match(driver.said, /LOOK AT BOTH SIDES: .*Source: it does not answer/);
    pair.source.kill('SIGCONT');
  });

  test('a source that is killed is reported, with what the destination says', async (t) => {
    if (!needsQemu(t)) return;
    const pair = await startQemus(t);
    const driver = new Driver(t, [...sides(pair), ...SLOW]);
    await driver.untilSaid(/source +active/);
    pair.source.kill('SIGKILL');
    assert.equal(await driver.exitCode(), 6, driver.said);
    assert.match(driver.said, /LOOK AT BOTH SIDES: The source's process has ended, and the guest with it/);
  });
});

suite('postcopy migrate refuses before anything starts', { timeout: 400_000 }, () => {
  const refused = async (t: TestContext, args: readonly string[], why: RegExp) => {
    const { code, report } = await migrate(t, args);
    assert.equal(code, 1);
    assert.equal(report.outcome, 'not-started');
    assert.match(report.text, why);
  };

  test('another machine type, memory size or number of processors', async (t) => {
    if (!needsQemu(t)) return;
    const folder = tempFolder(t);
    const source = await Qemu.start(t, folder, { name: 'source' });
    const before = await settingsOf(source);
    for (const [name, options, why] of [
      [
        'q35',
        { machine: 'q35' },
        /Another machine type: the source is QEMU .*\(pc-i440fx-.*\), the destination QEMU/,
      ],
      ['big', { memoryMib: 32 }, /Another memory size: the source has 16 MiB, the destination 32 MiB/],
      ['two', { smp: 2 }, /Another number of processors: the source has 1, the destination 2/],
    ] as const) {
      const destination = await Qemu.start(t, folder, { ...options, name, incoming: 'defer' });
      await refused(t, ['--qmp', source.qmpPath, '--to', destination.qmpPath, '--postcopy', 'auto'], why);
      assert.equal(await destination.runState(), 'inmigrate');
    }
    assert.deepEqual(await settingsOf(source), before);
    await source.untilMoreTicks();
  });

  test('sides that are the wrong way round, do not wait, or whose monitor another client holds', async (t) => {
    if (!needsQemu(t)) return;
    const pair = await startQemus(t);
    const [a, b] = [pair.source.qmpPath, pair.destination.qmpPath];
    await refused(t, ['--qmp', b, '--to', a], /The source has no guest .*"inmigrate".* the wrong way round/);
    const other = await Qemu.start(t, pair.folder, { program: MOVER, name: 'other' });
    await refused(
      t,
      ['--qmp', a, '--to', other.qmpPath],
      /The destination does not wait .*"running"; .*-incoming defer/,
    );
    const held = `${pair.folder}/destination.qmp`;
    await refused(t, ['--qmp', a, '--to', held], /^Destination: .* did not greet .* another client holds it/);
    await refused(t, ['--qmp', `${pair.folder}/none`, '--to', b], /^Source: .*there is no such socket/);
    await refused(
      t,
      ['--qmp', a, '--to', b, '--capability', 'warp=on'],
      /The source has no capability "warp"; it has: /,
    );
    await refused(t, ['--qmp', a, '--to', b, '--parameter', 'max-bandwidth=fast'], /must be a whole number/);
    await refused(
      t,
      ['--qmp', a, '--to', b, '--parameter', 'source:downtime-limit=9999999'],
      /The source refuses the parameters downtime-limit: /,
    );
    await proveStayed(pair);
  });

  test('a machine of ours and a QEMU, either way', async (t) => {
    if (!needsQemu(t)) return;
    const ours = await startPair(t, { incoming: 'defer' });
    const source = await Qemu.start(t, ours.folder, { name: 'qemu' });
    const destination = await Qemu.start(t, ours.folder, { name: 'waiting', incoming: 'defer' });
    const why =
      /The source is (QEMU|postcopy) .*, the destination (QEMU|postcopy) .*: that is another machine with other devices/;
    await refused(t, ['--qmp', source.qmpPath, '--to', `${ours.folder}/destination.qmp`], why);
    await refused(t, ['--qmp', `${ours.folder}/source.qmp`, '--to', destination.qmpPath], why);
    await source.untilMoreTicks();
    await ours.source.untilMoreTicks();
    assert.equal(await ours.destination.runState(), 'inmigrate');
  });
});

/** Where a QEMU that listens does. */
async function portOf(qemu: Qemu): Promise<number> {
  const info = await qemu.qmp.execute<{ 'socket-address'?: { port: string }[] }>('query-migrate');
  return Number(info['socket-address']?.[0]?.port);
}
