/**
 * Snapshots and a real QEMU: we read the mapped-ram files and streams that it writes, and it loads the mapped-ram files that we write.
 *
 * mapped-ram is of QEMU 9 and later; streams are read of the older one as well.
 */
import assert from 'node:assert/strict';
import { closeSync, constants, openSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { suite, type TestContext, test } from 'node:test';
import { checkGuest } from '../../src/machine/guest-check.ts';
import { TARGET_PAGE_BYTES } from '../../src/memory/ram-block.ts';
import { isZeroPage } from '../../src/memory/zero-page.ts';
import { openSnapshot } from '../../src/snapshot/open-snapshot.ts';
import type { Snapshot } from '../../src/snapshot/snapshot.ts';
import { SnapshotWriter } from '../../src/snapshot/snapshot-writer.ts';
import { CapturedStream } from '../support/captured-stream.ts';
import { skipUnless } from '../support/requirements.ts';
import { memoryOf, openForTest } from '../support/snapshot-memory.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { assertOneGuest } from '../support/ticks.ts';
import { NEWER_QEMU, needsNewerQemu, needsQemu, Qemu, type QemuOptions } from './qemu.ts';

const MEMORY_MIB = 32;
/** Behind the first MiB, part of which the machine overlays with ROMs. */
const LOW_BYTES = 2 ** 20;
const newer: QemuOptions = { program: NEWER_QEMU, memoryMib: MEMORY_MIB };
const mappedRam = { 'mapped-ram': true };

const MACHINES: readonly QemuOptions[] = [
  { ...newer, machine: 'pc' },
  {
    ...newer,
    machine: 'q35',
    smp: 2,
    guest: 'random',
    extraArgs: ['-device', 'virtio-net-pci', '-device', 'virtio-rng-pci', '-vga', 'std'],
  },
];

/** Lets the guest run, and saves it to a file. */
async function save(source: Qemu, uri: string): Promise<void> {
  await source.untilMoreTicks();
  await source.qmp.execute('migrate', { uri });
  assert.equal(await source.migrationEnd(), 'completed', source.describe());
}

/** The snapshot has the memory of the guest, which stands still, and it is one guest's. */
async function assertMemory(snapshot: Snapshot, source: Qemu): Promise<void> {
  const ram = memoryOf(snapshot, 0);
  const memory = await source.saveMemory(MEMORY_MIB * 2 ** 20);
  assert.equal(ram.length, memory.length);
  assert.ok(ram.subarray(LOW_BYTES).equals(memory.subarray(LOW_BYTES)), 'RAM is what the guest has');
  checkGuest((offset, lengthBytes) => ram.subarray(offset, offset + lengthBytes));
}

/** Writes a snapshot of a stream, page by page. */
function writeSnapshot(path: string, stream: Buffer): void {
  const captured = new CapturedStream();
  captured.push(stream);
  captured.decoder.end();
  const { machineType, uuid } = captured.configurationSeen!;
  const ramSectionId = captured.decoder.ramSectionId as number;
  const writer = new SnapshotWriter({ path, machineType, uuid, ramSectionId, blocks: captured.blocks });
  for (const [block, memory] of captured.ram.entries()) {
    for (let at = 0; at < memory.length; at += TARGET_PAGE_BYTES) {
      if (isZeroPage(memory, at)) continue;
      writer.writePage(block, at / TARGET_PAGE_BYTES, memory.subarray(at, at + TARGET_PAGE_BYTES));
    }
  }
  writer.finish(captured.tail!.deviceSections, captured.tail!.vmDescription);
}

/** Starts another QEMU with what is in the file, and sees the guest go on in it. */
async function assertLoads(
  t: TestContext,
  folder: string,
  source: Qemu,
  options: QemuOptions,
): Promise<void> {
  const destination = await Qemu.start(t, folder, { ...options, name: 'destination' });
  assert.equal(await destination.migrationEnd(), 'completed', destination.describe());
  await destination.untilMoreTicks();
  const before = await source.proveOneEdge();
  const after = await destination.proveOneEdge();
  assert.equal(after.nonce, before.nonce);
  assert.equal(after.pagesChecked, before.pagesChecked);
  assertOneGuest(source.console, destination.console);
}

function hasDirectIo(path: string): boolean {
  try {
    closeSync(openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_DIRECT));
    return true;
  } catch {
    return false;
  }
}

suite('snapshots and QEMU', { timeout: 400_000 }, () => {
  for (const options of MACHINES) {
    const { machine } = options;

    test(`the mapped-ram file that QEMU saves of a ${machine} has the memory of the guest`, async (t) => {
      if (!needsNewerQemu(t)) return;
      const folder = tempFolder(t);
      const path = join(folder, 'saved');
      const source = await Qemu.start(t, folder, { ...options, capabilities: mappedRam });
      await save(source, `file:${path}`);
      const snapshot = openForTest(t, path);
      assert.equal(snapshot.format, 'mapped-ram');
      assert.match(snapshot.machineType, machine === 'pc' ? /^pc-i440fx-\d/ : /^pc-q35-\d/);
      assert.equal(snapshot.blocks[0]?.idstr, 'pc.ram');
      assert.ok(snapshot.vmDescription !== undefined);
      await assertMemory(snapshot, source);
    });

    test(`QEMU loads the mapped-ram file that we write of a ${machine}, and the guest goes on`, async (t) => {
      if (!needsNewerQemu(t)) return;
      const folder = tempFolder(t);
      const path = join(folder, 'a.snap');
      const source = await Qemu.start(t, folder, { ...options, name: 'source' });
      await save(source, `exec:cat > ${folder}/stream`);
      writeSnapshot(path, readFileSync(join(folder, 'stream')));
      await assertMemory(openForTest(t, path), source);
      assert.ok(statSync(path).blocks * 512 < statSync(path).size / 2, 'it is sparse');
      const capabilities = { ...mappedRam, multifd: machine === 'q35' };
      await assertLoads(t, folder, source, { ...options, capabilities, incoming: `file:${path}` });
    });
  }

  for (const directIo of [false, true]) {
    test(`a file saved over several channels${directIo ? ' with direct-io' : ''}, behind a header of someone else's, is read`, async (t) => {
      if (!needsNewerQemu(t)) return;
      const folder = tempFolder(t);
      const path = join(folder, 'saved');
      if (directIo && !skipUnless(t, 'direct I/O', hasDirectIo(path), `${folder} has none`)) return;
      const source = await Qemu.start(t, folder, {
        ...newer,
        capabilities: { ...mappedRam, multifd: true },
        parameters: { 'multifd-channels': 3, 'direct-io': directIo },
      });
      await save(source, `file:${path},offset=12345`);
      assert.throws(() => openSnapshot(path), { code: 'NOT_A_SNAPSHOT' });
      await assertMemory(openForTest(t, path, 12345), source);
    });
  }

  test('QEMU loads the snapshot of another version of it, with its uuid', async (t) => {
    if (!needsQemu(t) || !needsNewerQemu(t)) return;
    const folder = tempFolder(t);
    const path = join(folder, 'a.snap');
    const uuid = '00112233-4455-6677-8899-aabbccddeeff';
    const options = { memoryMib: MEMORY_MIB, machine: 'pc-i440fx-7.2', extraArgs: ['-uuid', uuid] };
    const source = await Qemu.start(t, folder, {
      ...options,
      name: 'source',
      capabilities: { 'validate-uuid': true },
    });
    await save(source, `exec:cat > ${folder}/stream`);
    writeSnapshot(path, readFileSync(join(folder, 'stream')));
    const snapshot = openForTest(t, path);
    assert.equal(Buffer.from(snapshot.uuid ?? []).toString('hex'), uuid.replaceAll('-', ''));
    const incoming = `file:${path}`;
    await assertLoads(t, folder, source, { ...newer, ...options, capabilities: mappedRam, incoming });
  });

  test('the stream that QEMU writes to a file has the memory of the guest, whether indexed or not yet', async (t) => {
    if (!needsQemu(t)) return;
    const folder = tempFolder(t);
    const path = join(folder, 'stream');
    const source = await Qemu.start(t, folder, { memoryMib: MEMORY_MIB, guest: 'random' });
    await save(source, `exec:cat > ${path}`);
    for (const time of ['first', 'second']) {
      const snapshot = openForTest(t, path);
      assert.equal(snapshot.format, 'stream', time);
      await assertMemory(snapshot, source);
    }
  });

  test('a file whose RAM is shared, and not in it, is refused', async (t) => {
    if (!needsNewerQemu(t)) return;
    const folder = tempFolder(t);
    const path = join(folder, 'saved');
    const source = await Qemu.start(t, folder, {
      ...newer,
      machine: 'pc,memory-backend=m',
      capabilities: { ...mappedRam, 'x-ignore-shared': true },
      extraArgs: ['-object', `memory-backend-memfd,id=m,size=${MEMORY_MIB}M,share=on`],
    });
    await save(source, `file:${path}`);
    assert.throws(() => openSnapshot(path), {
      code: 'UNSUPPORTED',
      message: /"x-ignore-shared" off at the source/,
    });
  });
});
