/**
 * Streams of a real QEMU, read without knowing its machine: RAM is what the guest has, the devices can be told apart.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite, type TestContext, test } from 'node:test';
import type { StreamReport } from '../../src/inspect/stream-report.ts';
import { CapturedStream } from '../support/captured-stream.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { runProgram } from '../support/vm-process.ts';
import { NEWER_QEMU, needsNewerQemu, needsQemu, Qemu, type QemuOptions } from './qemu.ts';

const MEMORY_MIB = 32;
/** Behind the first MiB, part of which the machine overlays with ROMs. */
const LOW_BYTES = 2 ** 20;
const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000);

interface Capture {
  readonly qemu: Qemu;
  readonly stream: Buffer;
}

async function capture(t: TestContext, options: QemuOptions): Promise<Capture> {
  const folder = tempFolder(t);
  const qemu = await Qemu.start(t, folder, { memoryMib: MEMORY_MIB, ...options });
  await qemu.untilMoreTicks(2);
  const path = join(folder, 'stream');
  await qemu.qmp.execute('migrate', { uri: `exec:cat > ${path}` });
  assert.equal(await qemu.migrationEnd(), 'completed', qemu.describe());
  return { qemu, stream: readFileSync(path) };
}

function decode(stream: Buffer): CapturedStream {
  const captured = new CapturedStream();
  let state = seed >>> 0;
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  for (let position = 0; position < stream.length; ) {
    const lengthBytes = 1 + Math.floor(random() ** 4 * 60_000);
    captured.push(stream.subarray(position, position + lengthBytes));
    position += lengthBytes;
  }
  captured.decoder.end();
  return captured;
}

async function assertWhole({ qemu, stream }: Capture): Promise<CapturedStream> {
  const captured = decode(stream);
  assert(captured.tail !== null, 'the end of the stream was not found');
  assert.equal(captured.tail.eofAt + 6 + captured.tail.vmDescription!.length, stream.length);
  const sectionsBytes = captured.tail.deviceSections.length;
  const walkedBytes = captured.tail.devices!.reduce(
    (sum, { idstr, bodyBytes }) => sum + 1 + 4 + 1 + idstr.length + 8 + bodyBytes + 5,
    0,
  );
  assert.equal(walkedBytes, sectionsBytes);
  assert.equal(captured.tail.devices!.at(-1)!.idstr, 'globalstate');

  const memory = await qemu.saveMemory(MEMORY_MIB * 2 ** 20);
  const ram = captured.memory(captured.blocks[0]!.idstr);
  assert.equal(ram.length, memory.length);
  assert(ram.subarray(LOW_BYTES).equals(memory.subarray(LOW_BYTES)), 'RAM is not what the guest has');
  return captured;
}

suite(`OpenStreamDecoder, given a stream of QEMU (SEED=${seed})`, { timeout: 400_000 }, () => {
  test('reads that of a pc', async (t) => {
    if (!needsQemu(t)) return;
    const captured = await assertWhole(await capture(t, { machine: 'pc' }));
    assert.match(captured.configurationSeen!.machineType, /^pc-i440fx-\d/);
    assert.equal(captured.configurationSeen!.uuid, undefined);
    assert.deepEqual(captured.configurationSeen!.capabilities, []);
    assert.equal(captured.blocks[0]!.idstr, 'pc.ram');
    assert(captured.blocks.length > 3);
  });

  test('reads that of a q35 with devices, two vCPUs and a uuid', async (t) => {
    if (!needsQemu(t)) return;
    const uuid = '00112233-4455-6677-8899-aabbccddeeff';
    const captured = await assertWhole(
      await capture(t, {
        machine: 'q35',
        smp: 2,
        capabilities: { 'validate-uuid': true },
        extraArgs: [
          ...['-uuid', uuid, '-netdev', 'user,id=n', '-device', 'virtio-net-pci,netdev=n'],
          ...['-device', 'virtio-rng-pci', '-vga', 'std'],
        ],
      }),
    );
    assert.match(captured.configurationSeen!.machineType, /^pc-q35-\d/);
    assert.equal(Buffer.from(captured.configurationSeen!.uuid!).toString('hex'), uuid.replaceAll('-', ''));
    const names = captured.tail!.devices!.map(({ idstr }) => idstr);
    assert(names.some((name) => name.endsWith('/virtio-net')));
    assert.deepEqual(names.filter((name) => name === 'cpu').length, 2);
  });

  test('reads XBZRLE deltas, which make the pages what they are', async (t) => {
    if (!needsQemu(t)) return;
    const captured = await assertWhole(
      await capture(t, {
        guest: 'counter',
        capabilities: { xbzrle: true },
        // Slow enough for several passes, in which the guest writes the same pages again.
        parameters: { 'max-bandwidth': 20 * 2 ** 20, 'downtime-limit': 20 },
      }),
    );
    assert(captured.counts.xbzrle > 100, `only ${captured.counts.xbzrle} deltas`);
  });

  test('passes over the pages of a mapped-ram file, whose bitmaps "postcopy inspect" counts', async (t) => {
    if (!needsNewerQemu(t)) return;
    const folder = tempFolder(t);
    const options = { program: NEWER_QEMU, machine: 'q35', memoryMib: MEMORY_MIB };
    const qemu = await Qemu.start(t, folder, { ...options, capabilities: { 'mapped-ram': true } });
    await qemu.untilMoreTicks(2);
    await qemu.qmp.execute('stop');
    const path = join(folder, 'mapped');
    await qemu.qmp.execute('migrate', { uri: `file:${path}` });
    assert.equal(await qemu.migrationEnd(), 'completed', qemu.describe());

    const captured = decode(readFileSync(path));
    assert.deepEqual(captured.configurationSeen!.capabilities, ['mapped-ram']);
    assert(captured.tail?.devices !== undefined);
    const { code, stdout, stderr } = await runProgram(t, ['inspect', '--json', path]);
    assert.equal(code, 0, stderr);
    const report = JSON.parse(stdout) as StreamReport;
    assert.equal(report.kind, 'mapped-ram');
    assert.equal(report.devicesBy, 'description');
    const memory = await qemu.saveMemory(MEMORY_MIB * 2 ** 20);
    const { mapped, pages } = report.blocks[0]!;
    assert.equal(pages.normal + pages.zero, memory.length / 4096);
    assert(pages.normal > 100);
    const last = memory.length - 4096;
    const file = readFileSync(path);
    for (const offset of [LOW_BYTES, 2 * LOW_BYTES, last]) {
      const at = mapped!.pagesOffset + offset;
      assert(file.subarray(at, at + 4096).equals(memory.subarray(offset, offset + 4096)));
    }
  });

  test('reads guest physical addresses with x-ignore-shared, and no page of a shared block', async (t) => {
    if (!needsQemu(t)) return;
    // A newer QEMU leaves out only what has a name in a file system.
    const path = join(tempFolder(t), 'memory');
    const memory = ['-object', `memory-backend-file,id=m,size=${MEMORY_MIB}M,share=on,mem-path=${path}`];
    const { stream } = await capture(t, {
      machine: 'pc,memory-backend=m',
      extraArgs: memory,
      capabilities: { 'x-ignore-shared': true },
    });
    const captured = decode(stream);
    assert.deepEqual(captured.configurationSeen!.capabilities, ['x-ignore-shared']);
    assert.equal(captured.blocks[0]!.idstr, 'm');
    assert(captured.blocks.every(({ gpa }) => typeof gpa === 'bigint'));
    assert(captured.memory('m').every((byte) => byte === 0));
    assert(captured.tail?.devices !== undefined);
  });
});
