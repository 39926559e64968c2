/**
 * Snapshots of a real QEMU, restored by `postcopy restore` into another: the guest goes on where it was, whole.
 *
 * The snapshots are plain streams, written by QEMU itself.
 */
import assert from 'node:assert/strict';
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { suite, type TestContext, test } from 'node:test';
import type { RestoreReport } from '../../src/restore/restore-report.ts';
import { atEnd } from '../support/cleanup.ts';
import { assertOneLinux, needsLinux } from '../support/linux-counts.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { until } from '../support/until.ts';
import { runProgram } from '../support/vm-process.ts';
import { MOVER, needsQemu, QEMU, Qemu } from './qemu.ts';
import { proveRestored, quit, restore, type Saved, save } from './saved-guest.ts';

suite('restore into QEMU', { timeout: 400_000 }, () => {
  for (const options of [
    { machine: 'pc', guest: 'counter' },
    { machine: 'q35', guest: 'random', smp: 2, memoryMib: 64, rangeMib: 32 },
    { machine: 'pc', guest: 'reader', memoryMib: 128, rangeMib: 100 },
  ] as const) {
    test(`the ${options.guest} guest of a ${options.machine} goes on while its memory comes`, async (t) => {
      if (!needsQemu(t)) return;
      const saved = await save(t, options);
      const qemu = await restore(t, saved);
      await proveRestored(qemu, saved);
      assert.match(qemu.stderr, /the guest\s+asked for/);
      await quit(qemu);
    });
  }

  test('a machine of many parts: two vCPUs, virtio devices with ROMs, a disk, shared memory of 2 GiB', async (t) => {
    if (!needsQemu(t)) return;
    const disk = join(tempFolder(t), 'disk');
    writeFileSync(disk, Buffer.alloc(2 ** 20));
    const saved = await save(t, {
      machine: 'q35,memory-backend=mem',
      smp: 2,
      memoryMib: 2048,
      rangeMib: 16,
      extraArgs: [
        ...['-object', 'memory-backend-memfd,id=mem,size=2G,share=on'],
        ...['-netdev', 'user,id=net', '-device', 'virtio-net-pci,netdev=net'],
        ...['-drive', `file=${disk},format=raw,if=none,id=disk`, '-device', 'virtio-blk-pci,drive=disk'],
        ...['-device', 'VGA'],
      ],
    });
    const qemu = await restore(t, saved);
    await proveRestored(qemu, saved);
    assert.match(qemu.stderr, /"[^"]+": pc-q35-[\d.]+, 2 GiB of memory, \d+(\.\d)? MiB of it not zero/);
    await quit(qemu);
  });

  test('memory in a file of a file system that userfaultfd knows', async (t) => {
    if (!needsQemu(t)) return;
    const path = join('/dev/shm', `postcopy-test-${process.pid}`);
    atEnd(t, () => rmSync(path, { force: true }));
    const saved = await save(t, {
      machine: 'pc,memory-backend=mem',
      memoryMib: 32,
      extraArgs: ['-object', `memory-backend-file,id=mem,size=32M,mem-path=${path},share=on`],
    });
    const qemu = await restore(t, saved);
    await proveRestored(qemu, saved);
    await quit(qemu);
  });

  test('a Linux guest goes on counting, and its clocks do not jump', async (t) => {
    if (!needsQemu(t) || !needsLinux(t)) return;
    const folder = tempFolder(t);
    const options = { guest: 'linux', memoryMib: 128 } as const;
    const qemu = await Qemu.start(t, folder, { name: 'saved', ...options });
    await qemu.untilMoreCounts();
    const path = join(folder, 'linux.snap');
    await qemu.qmp.execute('migrate', { uri: `exec:cat > '${path}'` });
    assert.equal(await qemu.migrationEnd(), 'completed');
    await qemu.qmp.execute('quit').catch(() => {});
    await qemu.untilEnded();
    const saved = { folder, path, options, lastTick: 0, nonce: '' };
    const restored = await restore(t, saved);
    await restored.untilMoreCounts();
    assertOneLinux(qemu.console, restored.console);
    await quit(restored);
  });

  test('a guest that ran when it was saved runs at once', async (t) => {
    if (!needsQemu(t)) return;
    const folder = tempFolder(t);
    const options = { program: MOVER };
    const qemu = await Qemu.start(t, folder, { name: 'saved', ...options });
    await qemu.untilMoreTicks(2);
    const path = join(folder, 'vm.snap');
    await qemu.qmp.execute('migrate', { uri: `exec:cat > '${path}'` });
    assert.equal(await qemu.migrationEnd(), 'completed');
    const saved = { folder, path, options, lastTick: qemu.ticks.at(-1)?.tick ?? 0, nonce: '' };
    const restored = await restore(t, saved);
    await restored.untilMoreTicks(2);
    assert.match(restored.stderr, /the guest runs, \d+ ms after the start/);
    await restored.proveOneEdge();
    await quit(restored);
  });

  test('--full loads everything before the guest runs', async (t) => {
    if (!needsQemu(t)) return;
    const saved = await save(t);
    const qemu = await restore(t, saved, { args: ['--full'] });
    await proveRestored(qemu, saved);
    assert.doesNotMatch(qemu.stderr, /asked for/);
    await quit(qemu);
  });

  test('an order recorded by --record is played back, and saves page requests', async (t) => {
    if (!needsQemu(t)) return;
    const saved = await save(t, { guest: 'reader', memoryMib: 64, rangeMib: 8 });
    const first = await restore(t, saved, { args: ['--record'] });
    await proveRestored(first, saved);
    await quit(first);
    const order = JSON.parse(readFileSync(`${saved.path}.order`, 'utf8'));
    assert(order.requests > 100, `${order.requests} requests were recorded`);

    const second = await restore(t, saved, { name: 'again' });
    await proveRestored(second, saved);
    assert.match(second.stderr, /recorded order\s+[1-9][\d ]* of its [\d ]+ pages sent ahead/);
    await quit(second);
    const third = await restore(t, saved, { name: 'without', args: ['--no-order'] });
    await proveRestored(third, saved);
    assert.doesNotMatch(third.stderr, /recorded order/);
  });

  test('twenty restores in a row leave nothing behind', async (t) => {
    if (!needsQemu(t)) return;
    const saved = await save(t);
    const scratch = join(saved.folder, 'tmp');
    mkdirSync(scratch);
    for (let count = 0; count < 20; count++) {
      const qemu = await restore(t, saved, { name: `clone${count}`, env: { TMPDIR: scratch } });
      await until('the guest to arrive', async () => (await qemu.runState()) === 'paused');
      await until(
        'all memory',
        () => qemu.stderr.includes('all memory is there'),
        () => qemu.describe(),
      );
      assert.deepEqual(readdirSync(scratch), [], 'a folder is left while QEMU runs');
      await quit(qemu);
      assert(!existsSync(join(saved.folder, `clone${count}.pid`)), 'QEMU is left');
    }
  });

  test('three clones at once go on each for itself', async (t) => {
    if (!needsQemu(t)) return;
    const saved = await save(t);
    const clones = await Promise.all(['one', 'two', 'three'].map((name) => restore(t, saved, { name })));
    await Promise.all(clones.map((clone) => proveRestored(clone, saved)));
    await Promise.all(clones.map(quit));
  });

  test('--into feeds a QEMU that waits, and reports in JSON', async (t) => {
    if (!needsQemu(t)) return;
    const saved = await save(t);
    const uri = `unix:${join(saved.folder, 'migration')}`;
    const capabilities = { 'postcopy-ram': true };
    const qemu = await Qemu.start(t, saved.folder, { name: 'waits', incoming: uri, capabilities });
    const { code, stdout, stderr } = await runProgram(t, ['restore', saved.path, '--into', uri, '--json']);
    assert.equal(code, 0, stderr);
    const report: RestoreReport = JSON.parse(stdout);
    assert.equal(report.mode, 'postcopy');
    assert.equal(report.migration?.status, 'completed');
    await qemu.untilStatus('completed');
    await qemu.qmp.execute('cont');
    await qemu.untilMoreTicks(2);
    await qemu.proveOneEdge();
  });
});

suite('restores that are refused or fail', { timeout: 400_000 }, () => {
  const run = (t: TestContext, saved: Saved, qemu: readonly string[]) =>
    runProgram(t, [
      'restore',
      saved.path,
      '--',
      QEMU,
      '-display',
      'none',
      '-nodefaults',
      '-accel',
      'tcg',
      ...qemu,
    ]);

  test('another machine type or memory size is refused, and the text says which option does', async (t) => {
    if (!needsQemu(t)) return;
    const saved = await save(t);
    const machine = await run(t, saved, ['-machine', 'q35', '-m', '16M']);
    assert.equal(machine.code, 1);
    assert.match(
      machine.stderr,
      /machine type "pc-i440fx-[\d.]+" and this QEMU is "pc-q35-.*"-machine pc-i440fx/,
    );
    const memory = await run(t, saved, ['-machine', 'pc', '-m', '32M']);
    assert.equal(memory.code, 1);
    assert.match(
      memory.stderr,
      /16 MiB of memory in "pc.ram" and this QEMU has 32 MiB: start it with "-m 16M"/,
    );
  });

  test('another set of devices ends QEMU before its guest runs, and this with code 1', async (t) => {
    if (!needsQemu(t)) return;
    const saved = await save(t, { extraArgs: ['-device', 'virtio-net-pci'] });
    const { code, stderr } = await run(t, saved, ['-machine', 'pc', '-m', '16M']);
    assert.equal(code, 1);
    assert.match(
      stderr,
      /qemu-system-x86_64 ended before all memory was there: exit code 1\. Its options must be those/,
    );
  });

  test('a truncated snapshot, or none, is refused before QEMU is started', async (t) => {
    if (!needsQemu(t)) return;
    const saved = await save(t);
    truncateSync(saved.path, statSync(saved.path).size - 5000);
    const { code, stderr } = await run(t, saved, []);
    assert.equal(code, 1);
    assert.match(stderr, /vm\.snap/);
    appendFileSync(join(saved.folder, 'text'), 'this is no snapshot');
    const none = await runProgram(t, ['restore', join(saved.folder, 'text'), '--', QEMU]);
    assert.equal(none.code, 1);
    assert.match(none.stderr, /text/);
    const missing = await runProgram(t, ['restore', join(saved.folder, 'missing'), '--', QEMU]);
    assert.equal(missing.code, 1);
    assert.match(missing.stderr, /no such file/i);
  });

  test('wrong usage is code 2', async (t) => {
    const usage = async (args: readonly string[], why: RegExp) => {
      const { code, stderr } = await runProgram(t, ['restore', ...args]);
      assert.equal(code, 2, stderr);
      assert.match(stderr, why);
    };
    await usage(['x.snap'], /QEMU and its options behind "--", or a URI with --into/);
    await usage(['x.snap', '--into', 'nowhere'], /Bad migration URI/);
    await usage(['x.snap', '--', QEMU, '-incoming', 'defer'], /"-incoming" of QEMU cannot be used here/);
    await usage(['x.snap', '--full', '--record', '--', QEMU], /leave out --full/);
    await usage(['tcp:127.0.0.1:1', '--no-cache', '--record', '--', QEMU], /leave out --no-cache/);
    await usage(['x.snap', '--max-bandwidth', 'fast', '--', QEMU], /--max-bandwidth: Size must be/);
  });

  test('a QEMU that does not exist, and one that is killed while it loads', async (t) => {
    if (!needsQemu(t)) return;
    const saved = await save(t, { guest: 'reader', memoryMib: 64, rangeMib: 32 });
    const none = await runProgram(t, ['restore', saved.path, '--', '/nonexistent/qemu']);
    assert.equal(none.code, 1);
    assert.match(none.stderr, /"\/nonexistent\/qemu" cannot be started: there is no such program/);

    const qemu = await restore(t, saved, { args: ['--max-bandwidth', '64K'] });
    await until('the guest to arrive', async () => (await qemu.runState()) === 'paused');
    process.kill(Number(readFileSync(join(saved.folder, 'restored.pid'), 'latin1')), 'SIGKILL');
    assert.deepEqual(await qemu.untilEnded(), { code: 1, signal: null });
    assert.match(qemu.stderr, /ended before all memory was there: signal SIGKILL/);
  });

  test('a QEMU that is told to quit while memory comes has been restored: code 0', async (t) => {
    if (!needsQemu(t)) return;
    const saved = await save(t, { guest: 'reader', memoryMib: 64, rangeMib: 32 });
    const qemu = await restore(t, saved, { args: ['--max-bandwidth', '64K'] });
    await until('the guest to arrive', async () => (await qemu.runState()) === 'paused');
    await quit(qemu);
    assert.match(qemu.stderr, /ended before all memory was there: exit code 0$/m);
  });

  test('a guest that had never run when it was saved does not run', async (t) => {
    if (!needsQemu(t)) return;
    const folder = tempFolder(t);
    const qemu = await Qemu.start(t, folder, { name: 'saved', isPaused: true });
    const path = join(folder, 'vm.snap');
    await qemu.qmp.execute('migrate', { uri: `exec:cat > '${path}'` });
    assert.equal(await qemu.migrationEnd(), 'completed');
    const restored = await restore(t, { folder, path, options: {}, lastTick: 0, nonce: '' });
    await until('the guest to arrive', async () => (await restored.runState()) !== 'inmigrate');
    assert.equal(await restored.runState(), 'paused');
    await quit(restored);
  });

  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    test(`${signal} while memory comes ends QEMU too; the snapshot can be restored again`, async (t) => {
      if (!needsQemu(t)) return;
      const saved = await save(t, { guest: 'reader', memoryMib: 64, rangeMib: 32 });
      const qemu = await restore(t, saved, { args: ['--max-bandwidth', '64K'] });
      await until('the guest to arrive', async () => (await qemu.runState()) === 'paused');
      qemu.kill(signal);
      assert.deepEqual(await qemu.untilEnded(), { code: 1, signal: null });
      assert.match(qemu.stderr, /postcopy: Interrupted/);
      assert(!existsSync(join(saved.folder, 'restored.pid')), 'QEMU is left');
      const again = await restore(t, saved, { name: 'again' });
      await proveRestored(again, saved);
      await quit(again);
    });
  }

  test('a snapshot that becomes shorter while it is loaded is named, and QEMU is left for a look', async (t) => {
    if (!needsQemu(t)) return;
    const saved = await save(t, { guest: 'reader', memoryMib: 64, rangeMib: 32 });
    const qemu = await restore(t, saved, { args: ['--max-bandwidth', '1M'] });
    await until('the guest to arrive', async () => (await qemu.runState()) === 'paused');
    truncateSync(saved.path, 8192);
    await until(
      'the message',
      () => /vm\.snap" ends before the page/.test(qemu.stderr),
      () => qemu.describe(),
    );
    assert.match(
      qemu.stderr,
      /lacks pages .*shorter since it was opened\. End that machine and restore the snapshot again/,
    );
    assert.equal(await qemu.runState(), 'paused', 'QEMU has ended');
    qemu.kill('SIGTERM');
    assert.deepEqual(await qemu.untilEnded(), { code: 1, signal: null });
    assert(!existsSync(join(saved.folder, 'restored.pid')), 'QEMU is left');
  });
});
