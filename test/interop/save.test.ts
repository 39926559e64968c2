/**
 * `postcopy save` and a real QEMU: what is in the file is what the guest had, and the guest is as it was or as it was asked to
 * be, whatever happens on the way.
 *
 * QEMU 7.2 with -accel tcg sometimes misses that a guest wrote to a page, and sends what the page was before. So a guest of
 * it that is saved while it runs is held against what was sent; against its memory, one that is paused, one that is saved in
 * the background, and any of a newer QEMU.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { suite, type TestContext, test } from 'node:test';
import type { SaveReport } from '../../src/save/save-report.ts';
import { CapturedStream } from '../support/captured-stream.ts';
import { atEnd } from '../support/cleanup.ts';
import { checkMemory } from '../support/guest-memory.ts';
import { assertOneLinux, countsIn, needsLinux } from '../support/linux-counts.ts';
import { startSource } from '../support/pair.ts';
import { skipUnless } from '../support/requirements.ts';
import { memoryOf, openForTest } from '../support/snapshot-memory.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { inTime, until } from '../support/until.ts';
import { runProgram, spawnProgram } from '../support/vm-process.ts';
import { NEWER_QEMU, needsNewerQemu, needsQemu, Qemu, type QemuOptions } from './qemu.ts';

const MIB = 2 ** 20;
const MEMORY_MIB = 64;
/** Behind the first MiB, part of which the machine overlays with ROMs. */
const LOW_BYTES = MIB;
/** A rate at which a save of these guests takes long enough to be disturbed. */
const SLOW = ['--max-bandwidth', '4M'];

interface Machine {
  readonly folder: string;
  /** Where snapshots go: nothing else is in it. */
  readonly snapshots: string;
  readonly path: string;
  readonly qemu: Qemu;
}

async function startMachine(t: TestContext, options: QemuOptions = {}): Promise<Machine> {
  const folder = tempFolder(t);
  const snapshots = join(folder, 'snapshots');
  mkdirSync(snapshots);
  const extraArgs = (options.extraArgs ?? []).map((arg) => arg.replace('{folder}', folder));
  const qemu = await Qemu.start(t, folder, { memoryMib: MEMORY_MIB, rangeMib: 16, ...options, extraArgs });
  if (options.guest !== 'linux' && options.isPaused !== true) await qemu.untilMoreTicks();
  return { folder, snapshots, path: join(snapshots, 'vm.snap'), qemu };
}

async function save(t: TestContext, { qemu, path }: Machine, ...args: string[]): Promise<SaveReport> {
  const { code, stdout, stderr } = await runProgram(t, [
    'save',
    '--qmp',
    qemu.qmpPath,
    '--json',
    ...args,
    path,
  ]);
  assert.equal(stderr, '');
  assert.equal(code, 0);
  return JSON.parse(stdout) as SaveReport;
}

/** The save fails with these words. */
async function refuses(
  t: TestContext,
  { qemu, path }: Machine,
  text: RegExp,
  ...args: string[]
): Promise<void> {
  const { code, stdout, stderr } = await runProgram(t, ['save', '--qmp', qemu.qmpPath, ...args, path]);
  assert.match(stderr, text);
  assert.doesNotMatch(stderr, /internal error|\n {4}at /);
  assert.equal(stdout, '');
  assert.equal(code, 1);
}

async function settingsOf(qemu: Qemu): Promise<unknown> {
  return [
    await qemu.qmp.execute('query-migrate-capabilities'),
    await qemu.qmp.execute('query-migrate-parameters'),
  ];
}

/** Saves by a detour that records what QEMU sends, and proves that the file holds that. */
async function proveRecorded(t: TestContext, machine: Machine, ...args: string[]): Promise<SaveReport> {
  const recorded = new CapturedStream();
  const [via, detour] = ['via', 'detour'].map((name) => join(machine.folder, name)) as [string, string];
  const server = createServer((source) => {
    const target = connect(via);
    source.on('data', (bytes) => recorded.push(bytes)).pipe(target);
    target.pipe(source);
    for (const socket of [source, target]) socket.on('error', () => socket.destroy());
  });
  await new Promise<void>((resolve) => server.listen(detour, resolve));
  const report = await save(t, machine, '--via', `unix:${via}`, '--connect', `unix:${detour}`, ...args);
  server.close();
  const snapshot = openForTest(t, machine.path);
  assert.deepEqual(
    snapshot.blocks.map(({ idstr, lengthBytes }) => [idstr, lengthBytes]),
    recorded.blocks.map(({ idstr, lengthBytes }) => [idstr, lengthBytes]),
  );
  for (const [index, memory] of recorded.ram.entries()) assert(memory.equals(memoryOf(snapshot, index)));
  assert.equal(snapshot.machineType, recorded.configurationSeen?.machineType);
  assert.deepEqual(Buffer.from(snapshot.deviceSections), Buffer.from(recorded.tail!.deviceSections));
  assert.deepEqual(Buffer.from(snapshot.vmDescription!), Buffer.from(recorded.tail!.vmDescription!));
  assert.equal(report.pages.normal, recorded.counts.page);
  assert.equal(report.pages.zero, recorded.counts.zero);
  assert.equal(report.pages.xbzrle, recorded.counts.xbzrle);
  return report;
}

/** The file holds the memory of the guest, which stands still since. */
async function proveSaved(t: TestContext, { qemu, path }: Machine, memoryMib = MEMORY_MIB): Promise<Buffer> {
  const memory = await qemu.saveMemory(memoryMib * MIB);
  const ram = memoryOf(openForTest(t, path), 0);
  assert.equal(ram.length, memory.length);
  assert(ram.subarray(LOW_BYTES).equals(memory.subarray(LOW_BYTES)), 'the file is what the guest has');
  return ram;
}

/** The guest runs as if nothing had been, and there is no file. */
async function proveUnsaved({ qemu, snapshots }: Machine, leftOver: readonly string[] = []): Promise<void> {
  assert.deepEqual(readdirSync(snapshots), leftOver);
  assert.equal(await qemu.runState(), 'running');
  await qemu.untilMoreTicks();
  await qemu.proveOneEdge();
}

/** A save that has begun to write its file. */
async function beginSave(t: TestContext, { qemu, path, snapshots }: Machine, ...args: string[]) {
  const child = spawnProgram(t, ['save', '--qmp', qemu.qmpPath, ...args, path]);
  let said = '';
  child.stderr?.on('data', (bytes) => (said += bytes));
  await until(
    'the file to be begun',
    () => readdirSync(snapshots).some((name) => name.endsWith('.partial')),
    () => said,
  );
  const end = async () => {
    const { code } = await inTime('the end of the save', child.exit, () => said);
    return { code, said };
  };
  return { kill: (signal: NodeJS.Signals) => child.kill(signal), end };
}

suite('save', { timeout: 400_000 }, () => {
  const machines: readonly (QemuOptions & { what: string })[] = [
    { what: 'a pc', machine: 'pc' },
    {
      what: 'a q35 with devices and two vCPUs',
      machine: 'q35',
      smp: 2,
      guest: 'random',
      extraArgs: [
        ...['-netdev', 'user,id=n', '-device', 'virtio-net-pci,netdev=n', '-device', 'virtio-rng-pci'],
        ...['-vga', 'std'],
      ],
    },
    {
      what: 'a machine whose memory is a shared file',
      machine: 'pc,memory-backend=mem',
      extraArgs: ['-object', `memory-backend-file,id=mem,size=${MEMORY_MIB}M,mem-path={folder}/ram,share=on`],
    },
  ];
  for (const { what, ...options } of machines) {
    test(`writes what QEMU sends of ${what}, whose guest runs`, async (t) => {
      if (!needsQemu(t)) return;
      const machine = await startMachine(t, options);
      await proveRecorded(t, machine, '--keep-running');
      await machine.qemu.untilMoreTicks();
      await machine.qemu.proveOneEdge();
    });

    test(`writes what the guest of ${what} has, and leaves it paused`, async (t) => {
      if (!needsNewerQemu(t)) return;
      const machine = await startMachine(t, { program: NEWER_QEMU, ...options });
      const before = await settingsOf(machine.qemu);
      const report = await save(t, machine);
      assert.equal(await machine.qemu.runState(), 'postmigrate');
      assert.equal(report.guest, 'paused');
      assert.match(report['machine-type'], /^pc-(i440fx|q35)-\d/);
      assert.deepEqual(readdirSync(machine.snapshots), ['vm.snap']);
      assert.equal(statSync(machine.path).mode & 0o777, 0o600);
      assert.deepEqual(await settingsOf(machine.qemu), before);
      const ram = await proveSaved(t, machine);
      checkMemory(ram);
      assert.equal(
        report['ram-bytes'],
        openForTest(t, machine.path).blocks.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0),
      );
      // A guest that was saved cannot be again before it has run on.
      await refuses(t, machine, /"postmigrate" and cannot be saved: .*"cont" lets it go on/, '--overwrite');
      await machine.qemu.qmp.execute('cont');
      await machine.qemu.untilMoreTicks();
      await machine.qemu.proveOneEdge();
    });
  }

  test('lets the guest run on with --keep-running, and what it does then is not in the file', async (t) => {
    if (!needsNewerQemu(t)) return;
    const machine = await startMachine(t, { program: NEWER_QEMU });
    const report = await save(t, machine, '--keep-running');
    assert.equal(await machine.qemu.runState(), 'running');
    assert.equal(report.guest, 'running');
    assert(report['pause-ms'] !== undefined && report['pause-ms'] > 0);
    await machine.qemu.untilMoreTicks();
    const now = await machine.qemu.proveOneEdge();
    const saved = checkMemory(memoryOf(openForTest(t, machine.path), 0));
    assert.equal(saved.nonce, now.nonce);
    assert(saved.pass < now.pass);
    // And once more, over the first.
    await machine.qemu.qmp.execute('cont');
    await refuses(t, machine, /there is a file of that name already.*--overwrite/);
    await save(t, machine, '--keep-running', '--overwrite');
    await machine.qemu.untilMoreTicks();
    assert(checkMemory(memoryOf(openForTest(t, machine.path), 0)).pass > now.pass);
  });

  test('saves in the background while the guest runs', async (t) => {
    if (!needsQemu(t)) return;
    const machine = await startMachine(t, {
      guest: 'random',
      capabilities: { xbzrle: true, 'postcopy-ram': true },
    });
    const before = await settingsOf(machine.qemu);
    const report = await save(t, machine, '--background');
    assert.equal(report.mode, 'background');
    assert.equal(report.guest, 'running');
    assert.deepEqual(await settingsOf(machine.qemu), before);
    await machine.qemu.untilMoreTicks();
    const now = await machine.qemu.proveOneEdge();
    const saved = checkMemory(memoryOf(openForTest(t, machine.path), 0));
    assert.equal(saved.nonce, now.nonce);
    assert(saved.pass < now.pass);
  });

  test('leaves a guest paused that was, also with --keep-running, and does not start it for --background', async (t) => {
    if (!needsQemu(t)) return;
    const machine = await startMachine(t);
    await machine.qemu.qmp.execute('stop');
    await refuses(t, machine, /This guest is paused, and would be started/, '--background');
    assert.equal(await machine.qemu.runState(), 'paused');
    const report = await save(t, machine, '--keep-running');
    assert.equal(report.guest, 'paused');
    assert.notEqual(await machine.qemu.runState(), 'running');
    checkMemory(await proveSaved(t, machine));
  });

  test('ends QEMU with --quit', async (t) => {
    if (!needsQemu(t)) return;
    const machine = await startMachine(t);
    await machine.qemu.qmp.execute('stop');
    const report = await save(t, machine, '--quit');
    assert.equal(report.guest, 'ended');
    assert.deepEqual(await machine.qemu.untilEnded(), { code: 0, signal: null });
    checkMemory(memoryOf(openForTest(t, machine.path), 0));
  });

  test('switches off what a file cannot take, applies deltas, and gives every setting back', async (t) => {
    if (!needsQemu(t)) return;
    const machine = await startMachine(t, {
      capabilities: { xbzrle: true, multifd: true, 'x-ignore-shared': true, 'validate-uuid': true },
      parameters: { 'max-bandwidth': 12_345_678, 'downtime-limit': 77, 'tls-creds': 'none-such' },
      extraArgs: ['-uuid', '00112233-4455-6677-8899-aabbccddeeff'],
    });
    const before = await settingsOf(machine.qemu);
    // Slow enough for several passes, in which the guest writes the same pages again.
    const report = await proveRecorded(t, machine, '--max-bandwidth', '60M', '--downtime-limit', '30');
    assert(report.pages.xbzrle > 100, `only ${report.pages.xbzrle} deltas`);
    assert((report.passes ?? 0) > 1);
    const uuid = Buffer.from(openForTest(t, machine.path).uuid!).toString('hex');
    assert.equal(uuid, '00112233445566778899aabbccddeeff');
    assert.deepEqual(await settingsOf(machine.qemu), before);
  });

  test('takes the stream of a machine that does not describe its devices', async (t) => {
    if (!needsQemu(t)) return;
    const machine = await startMachine(t, { machine: 'pc,suppress-vmdesc=on' });
    await machine.qemu.qmp.execute('stop');
    await save(t, machine);
    assert.equal(openForTest(t, machine.path).vmDescription, undefined);
    checkMemory(await proveSaved(t, machine));
  });

  test('makes a small file of memory that is nearly all zero, and one as large as it must be of random memory', async (t) => {
    if (!needsQemu(t)) return;
    const memoryMib = 256;
    const zero = await startMachine(t, { memoryMib, rangeMib: 1 });
    await zero.qemu.qmp.execute('stop');
    const sparse = await save(t, zero);
    assert(sparse['file-bytes'] < 8 * MIB, `${sparse['file-bytes']} bytes on the disk`);
    assert(statSync(zero.path).size > memoryMib * MIB);
    await proveSaved(t, zero, memoryMib);

    const random = join(zero.folder, 'random');
    writeFileSync(random, randomBytes(64 * MIB));
    const full = await startMachine(t, {
      ...{ memoryMib: 128, rangeMib: 1 },
      extraArgs: ['-device', `loader,file=${random},addr=0x3000000,force-raw=on`],
    });
    await full.qemu.qmp.execute('stop');
    const report = await save(t, full);
    assert(report['content-bytes'] > 64 * MIB && report['file-bytes'] < 72 * MIB);
    await proveSaved(t, full, 128);
  });

  for (const via of ['tcp:127.0.0.1:0', 'unix:{folder}/via']) {
    test(`listens at ${via} with --via`, async (t) => {
      if (!needsQemu(t)) return;
      const machine = await startMachine(t);
      await machine.qemu.qmp.execute('stop');
      await save(t, machine, '--via', via.replace('{folder}', machine.folder));
      checkMemory(await proveSaved(t, machine));
      assert.equal(existsSync(join(machine.folder, 'via')), false);
    });
  }

  test('makes a file that postcopy restores', async (t) => {
    if (!needsQemu(t)) return;
    const machine = await startMachine(t, { machine: 'q35', guest: 'random' });
    await save(t, machine, '--background');
    await machine.qemu.qmp.execute('stop');
    const uri = `unix:${join(machine.folder, 'restored')}`;
    const restored = await Qemu.start(t, machine.folder, {
      ...{ name: 'restored', machine: 'q35', memoryMib: MEMORY_MIB, incoming: uri },
      capabilities: { 'postcopy-ram': true },
    });
    const { code, stderr } = await runProgram(t, ['restore', machine.path, '--into', uri]);
    assert.equal(code, 0, stderr);
    // Of a save in the background the devices say "paused".
    await restored.qmp.execute('cont');
    await restored.untilMoreTicks();
    const before = await machine.qemu.proveOneEdge();
    assert.equal((await restored.proveOneEdge()).nonce, before.nonce);
  });

  for (const mode of ['precopy', 'background']) {
    test(`makes a file of a newer QEMU that it loads by itself (${mode})`, async (t) => {
      if (!needsNewerQemu(t)) return;
      const options: QemuOptions = { program: NEWER_QEMU, machine: 'q35', guest: 'random', smp: 2 };
      const machine = await startMachine(t, options);
      await save(t, machine, ...(mode === 'background' ? ['--background'] : ['--keep-running']));
      await machine.qemu.qmp.execute('stop');
      const loaded = await Qemu.start(t, machine.folder, {
        ...{
          ...options,
          memoryMib: MEMORY_MIB,
          rangeMib: 16,
          name: 'loaded',
          incoming: `file:${machine.path}`,
        },
        capabilities: { 'mapped-ram': true },
      });
      assert.equal(await loaded.migrationEnd(), 'completed', loaded.describe());
      // Of a save in the background the devices say "paused".
      await loaded.qmp.execute('cont');
      await loaded.untilMoreTicks();
      assert.equal((await loaded.proveOneEdge()).nonce, (await machine.qemu.proveOneEdge()).nonce);
    });
  }

  test('lets a Linux guest go on as if nothing had been', async (t) => {
    if (!needsQemu(t) || !needsLinux(t)) return;
    const machine = await startMachine(t, { guest: 'linux', memoryMib: 256 });
    await machine.qemu.untilMoreCounts();
    await save(t, machine, '--keep-running');
    await machine.qemu.untilMoreCounts();
    assertOneLinux(machine.qemu.console);
    const saved = memoryOf(openForTest(t, machine.path), 0);
    assert(saved.includes('Linux version'));
    assert(countsIn(machine.qemu.console).length > 10);
  });

  test('saves a machine of ours, too', async (t) => {
    const folder = tempFolder(t);
    const vm = await startSource(t, folder, { memoryMib: 32 });
    const path = join(folder, 'ours.snap');
    await vm.qmp.execute('query-status');
    const qmp = join(folder, 'source.qmp');
    const args = ['save', '--qmp', qmp, '--keep-running', '--json', path];
    const { code, stdout, stderr } = await runProgram(t, args);
    assert.equal(code, 0, stderr);
    const report: SaveReport = JSON.parse(stdout);
    assert.match(report['machine-type'], /v86/);
    assert.equal(await vm.runState(), 'running');
    await vm.untilMoreTicks();
    checkMemory(memoryOf(openForTest(t, path), 0));
  });
});

suite('saves that are refused or fail', { timeout: 400_000 }, () => {
  test('a monitor that is none, or is in use, is named', async (t) => {
    if (!needsQemu(t)) return;
    const hmp = join(tempFolder(t), 'hmp');
    const machine = await startMachine(t, { extraArgs: ['-monitor', `unix:${hmp},server=on,wait=off`] });
    const run = (qmp: string) => runProgram(t, ['save', '--qmp', qmp, machine.path]);
    const nobody = await run(join(machine.folder, 'none'));
    assert.equal(nobody.code, 1);
    assert.match(nobody.stderr, /Cannot connect to the monitor unix:.*none: there is no such socket/);
    const other = connect(machine.qemu.qmpPath);
    await until('the greeting of the other', () => other.bytesRead > 0);
    const busy = await run(machine.qemu.qmpPath);
    other.destroy();
    assert.equal(busy.code, 1);
    assert.match(busy.stderr, /another client holds it/);
    const human = await run(hmp);
    assert.equal(human.code, 1);
    assert.match(human.stderr, /that is the monitor for people/);
    const wrong = await runProgram(t, ['save', '--qmp', 'tcp:x', machine.path]);
    assert.equal(wrong.code, 2);
    await proveUnsaved(machine);
  });

  test('a place where no file can be is refused before the guest is touched', async (t) => {
    if (!needsQemu(t)) return;
    const machine = await startMachine(t);
    const at = (path: string) => ({ ...machine, path });
    await refuses(t, at(join(machine.folder, 'no', 'a')), /no such file or directory \(ENOENT\)/);
    await refuses(t, at('/proc/1/a.snap'), /Cannot write snapshot/);
    await refuses(t, at(machine.snapshots), /there is a file of that name already/);
    await refuses(t, at(machine.snapshots), /it is there and not a regular file/, '--overwrite');
    assert.deepEqual(await machine.qemu.qmp.execute('query-migrate'), {});
    await proveUnsaved(machine);
  });

  test('a guest that cannot be saved as it is is refused, and the text says why', async (t) => {
    if (!needsQemu(t)) return;
    const waiting = await startMachine(t, { isPaused: true });
    await refuses(t, waiting, /"prelaunch" and cannot be saved: its guest has not started yet/);
    const incoming = await startMachine(t, { isPaused: true, incoming: 'defer' });
    await refuses(t, incoming, /"inmigrate" and cannot be saved/);
    const moving = await startMachine(t, { parameters: { 'max-bandwidth': MIB } });
    await moving.qemu.qmp.execute('migrate', { uri: 'exec:cat > /dev/null' });
    await moving.qemu.untilStatus('active');
    await refuses(t, moving, /has a migration under way already \("active"\); "migrate_cancel"/);
    assert.equal(await moving.qemu.untilStatus('active'), 'active');
    assert.deepEqual(readdirSync(moving.snapshots), []);
  });

  test('a full disk is named, and the guest runs on', async (t) => {
    if (!needsQemu(t)) return;
    const machine = await startMachine(t, { guest: 'reader' });
    const small = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', machine.snapshots]);
    if (!skipUnless(t, 'a small file system', small.status === 0, `cannot mount: ${small.stderr}`)) return;
    atEnd(t, () => spawnSync('umount', ['-l', machine.snapshots]));
    const before = await settingsOf(machine.qemu);
    for (const args of [[], ['--keep-running'], ['--background'], ['--background']]) {
      const text = /no space left on device \(ENOSPC\)\. The guest runs on\n$/;
      await refuses(t, machine, text, ...args);
      assert.deepEqual(await settingsOf(machine.qemu), before);
    }
    await proveUnsaved(machine);
  });

  test('^C cancels the migration, and the guest runs on', async (t) => {
    if (!needsQemu(t)) return;
    const machine = await startMachine(t);
    const before = await settingsOf(machine.qemu);
    const { kill, end } = await beginSave(t, machine, ...SLOW);
    kill('SIGINT');
    const { code, said } = await end();
    assert.match(said, /^postcopy: Interrupted\. The guest runs on\n$/);
    assert.equal(code, 1);
    assert.equal(await machine.qemu.migrationEnd(), 'cancelled');
    assert.deepEqual(await settingsOf(machine.qemu), before);
    await proveUnsaved(machine);
  });

  test('^C of a save in the background waits for what QEMU cannot break off', async (t) => {
    if (!needsQemu(t)) return;
    // Memory that takes some time to write, and that the guest writes to all the time.
    const machine = await startMachine(t, { memoryMib: 512, rangeMib: 400, guest: 'random' });
    const before = await settingsOf(machine.qemu);
    const { kill, end } = await beginSave(t, machine, '--background');
    kill('SIGINT');
    kill('SIGTERM');
    const { code, said } = await end();
    assert.match(
      said,
      /postcopy: gives up when QEMU has sent everything.*\npostcopy: Interrupted\. The guest runs on\n$/,
    );
    assert.equal(code, 1);
    assert.equal(await machine.qemu.migrationEnd(), 'completed');
    assert.deepEqual(await settingsOf(machine.qemu), before);
    await proveUnsaved(machine);
  });

  test('a save that is killed lets the guest run on, and what is left of it looks like no snapshot', async (t) => {
    if (!needsQemu(t)) return;
    const machine = await startMachine(t);
    const via = `unix:${join(machine.folder, 'via')}`; // it cannot take its socket away
    const { kill, end } = await beginSave(t, machine, ...SLOW, '--via', via);
    kill('SIGKILL');
    await end();
    assert.equal(await machine.qemu.migrationEnd(), 'failed');
    const left = readdirSync(machine.snapshots);
    assert.equal(left.length, 1);
    const { code } = await runProgram(t, ['inspect', join(machine.snapshots, left[0]!)]);
    assert.equal(code, 1);
    await proveUnsaved(machine, left);
  });

  test('a migration that is cancelled at another monitor is named', async (t) => {
    if (!needsQemu(t)) return;
    const machine = await startMachine(t);
    const { end } = await beginSave(t, machine, ...SLOW);
    await machine.qemu.qmp.execute('migrate_cancel');
    const { code, said } = await end();
    assert.match(said, /The migration was cancelled at the monitor of QEMU\. The guest runs on/);
    assert.equal(code, 1);
    await proveUnsaved(machine);
  });

  for (const args of [SLOW, ['--background']]) {
    test(`a QEMU that dies on the way is named, and no file is left (${args[0]})`, async (t) => {
      if (!needsQemu(t)) return;
      const machine = await startMachine(t, { memoryMib: 512, rangeMib: 400 });
      writeFileSync(machine.path, 'an older one');
      const { end } = await beginSave(t, machine, '--overwrite', ...args);
      machine.qemu.kill('SIGKILL');
      const { code, said } = await end();
      assert.match(said, /connection to QEMU is lost.*QEMU has closed its monitor: it has ended/s);
      assert.equal(code, 1);
      assert.deepEqual(readdirSync(machine.snapshots), ['vm.snap']);
      assert.equal(readFileSync(machine.path, 'utf8'), 'an older one');
    });
  }

  test('a QEMU that cannot reach us says so, and its guest runs on', async (t) => {
    if (!needsQemu(t)) return;
    const machine = await startMachine(t);
    const args = ['--via', 'tcp:127.0.0.1:0', '--connect', 'tcp:127.0.0.1:1'];
    await refuses(
      t,
      machine,
      /QEMU cannot migrate to "tcp:127.0.0.1:1": .*refused.*The guest runs on/i,
      ...args,
    );
    await proveUnsaved(machine);
  });

  test('a connection that brings no migration is refused, and the guest runs on', async (t) => {
    if (!needsQemu(t)) return;
    const machine = await startMachine(t);
    // QEMU is led to a listener that takes no interest; somebody else calls in its place.
    const elsewhere = createServer((socket) => socket.on('error', () => {}).resume());
    await new Promise<void>((resolve) => elsewhere.listen(join(machine.folder, 'elsewhere'), resolve));
    atEnd(t, () => elsewhere.close());
    const via = join(machine.folder, 'via');
    const args = ['--via', `unix:${via}`, '--connect', `unix:${join(machine.folder, 'elsewhere')}`, ...SLOW];
    const child = spawnProgram(t, ['save', '--qmp', machine.qemu.qmpPath, ...args, machine.path]);
    let said = '';
    child.stderr?.on('data', (bytes) => (said += bytes));
    await machine.qemu.untilStatus('active');
    connect(via)
      .on('error', () => {})
      .write('GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n');
    const { code } = await inTime('the end of the save', child.exit, () => said);
    assert.match(said, /What QEMU sends cannot be saved: .*\. The guest runs on/);
    assert.equal(code, 1);
    await proveUnsaved(machine);
  });
});
