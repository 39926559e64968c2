import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import koffi from 'koffi';
import { checkGuest, type GuestReport } from '../../src/machine/guest-check.ts';
import { decodeDeviceState, encodeDeviceState, type StateValue } from '../../src/machine/v86/state-codec.ts';
import type { V86MachineOptions } from '../../src/machine/v86/v86-options.ts';
import { type Skippable, skipUnless } from '../support/requirements.ts';
import { machineContract } from './machine-contract.ts';
import { ThreadedV86 } from './threaded-v86.ts';

const MIB = 1024 * 1024;
const memoryBytes = 16 * MIB;
const FIRMWARE = {
  biosPath: '/usr/share/seabios/bios-256k.bin',
  vgaBiosPath: '/usr/share/seabios/vgabios-stdvga.bin',
};
const hasSeaBios = (t: Skippable) =>
  skipUnless(t, 'SeaBIOS', existsSync(FIRMWARE.biosPath), `there is no ${FIRMWARE.biosPath}`);
const guest = (name: string) => ({
  path: fileURLToPath(new URL(`../../../guests/${name}.bin`, import.meta.url)),
});

machineContract(
  'V86Machine',
  () => running('counter', 'range=8M'),
  () => ThreadedV86.create({ memoryBytes }),
  { checkGuest: (ram) => checkGuest((offset, lengthBytes) => ram.subarray(offset, offset + lengthBytes)) },
);

/** A paused machine whose guest has prepared its memory. */
async function running(name: string, commandLine: string): Promise<ThreadedV86> {
  const machine = await ThreadedV86.create({ memoryBytes, kernel: guest(name), commandLine });
  await machine.resume();
  await until(() => machine.console.includes('tick='), machine);
  await machine.pause();
  return machine;
}

async function until(isTrue: () => boolean, machine: ThreadedV86): Promise<void> {
  const deadlineMs = Date.now() + 30_000;
  while (!isTrue()) {
    assert.ok(Date.now() < deadlineMs, `timed out; the guest wrote: ${machine.console}`);
    await sleep(10);
  }
}

describe('V86Machine', { timeout: 60_000 }, () => {
  const machines: ThreadedV86[] = [];
  const directory = mkdtempSync(join(tmpdir(), 'v86-machine-'));
  const create = async (options: V86MachineOptions): Promise<ThreadedV86> => {
    const machine = await ThreadedV86.create(options);
    machines.push(machine);
    return machine;
  };
  const file = (name: string, bytes: Uint8Array): string => {
    const path = join(directory, name);
    writeFileSync(path, bytes);
    return path;
  };
  afterEach(async () => {
    await Promise.all(machines.splice(0).map((machine) => machine.close()));
  });
  after(() => rmSync(directory, { recursive: true }));

  test('guest time goes on across a move to a machine whose clock began later', async () => {
    const source = await create({ memoryBytes, kernel: guest('clock') });
    await source.resume();
    await until(() => clockLines(source).length >= 5, source);
    const destination = await create({ memoryBytes });
    await source.pause();
    await destination.loadDevices(await source.saveDevices());
    assert.equal(await destination.guestNowMs(), await source.guestNowMs());
    copyRam(source, destination);
    await destination.resume();
    await until(() => clockLines(destination).length >= 5, destination);
    await destination.pause();

    const lines = [...clockLines(source), ...clockLines(destination)];
    for (const [index, line] of lines.entries()) {
      const last = lines[index - 1];
      if (last === undefined) continue;
      const tscNs = line.tsc - last.tsc;
      assert.ok(tscNs > 0, `the TSC ran back: ${last.tsc} to ${line.tsc}`);
      // Both counters must have advanced alike; steps the guest was too slow to see are whole rounds of the PIT.
      const missed = (tscNs * 1.1931816666e-3 - (line.pit - last.pit)) % 65535;
      assert.ok(Math.min(Math.abs(missed), 65535 - missed) < 3000, `the PIT jumped by ${missed} steps`);
    }
    assert.ok(
      lines.at(-1)!.tsc <= (await destination.guestNowMs()) * 1e6,
      'the TSC is not ahead of guest time',
    );
  });

  test('guest time stands still while paused', async () => {
    const machine = await create({ memoryBytes, kernel: guest('clock') });
    await machine.resume();
    await machine.pause();
    const pausedMs = await machine.guestNowMs();
    await sleep(20);
    assert.equal(await machine.guestNowMs(), pausedMs);
  });

  for (const name of ['counter', 'random', 'reader']) {
    test(`the ${name} guest keeps its nonce and its counts across a move`, async () => {
      const source = await create({ memoryBytes, kernel: guest(name), commandLine: 'range=4M' });
      await source.resume();
      await until(() => source.console.includes('tick=2 '), source);
      await source.pause();
      const before = reportOf(source);
      assert.equal(before.guest, name);
      const destination = await create({ memoryBytes });
      copyRam(source, destination);
      await destination.loadDevices(await source.saveDevices());
      assert.deepEqual(reportOf(destination), before);
      await destination.resume();
      await until(() => destination.console.includes('tick='), destination);
      await destination.pause();
      const after = reportOf(destination);
      assert.equal(after.nonce, before.nonce);
      assert.ok(after.pass > before.pass);
      assert.match(destination.console, new RegExp(`^tick=${before.tick + 1} `, 'm'));
    });
  }

  test('the registers v86 itself loses move with the guest', async () => {
    const source = await create({ memoryBytes, kernel: { path: file('fpu.bin', FPU_KERNEL) } });
    await source.resume();
    await until(() => source.console.includes('.'), source);
    await source.pause();
    const destination = await create({ memoryBytes });
    copyRam(source, destination);
    await destination.loadDevices(await source.saveDevices());
    await destination.resume();
    await until(() => /[.F]/.test(destination.console), destination);
    assert.equal(source.console.includes('F'), false);
    assert.equal(destination.console.includes('F'), false);
  });

  test('a page that gets lost is noticed by the guest and by checkGuest()', async () => {
    const machine = await create({ memoryBytes, kernel: guest('counter'), commandLine: 'range=1M' });
    await machine.resume();
    await until(() => machine.console.includes('tick='), machine);
    await machine.pause();
    ramOf(machine).fill(0, 0x201000 + 7 * 4096, 0x201000 + 8 * 4096);
    assert.throws(() => reportOf(machine), { name: 'GuestMemoryError', page: 7, message: /Page 7 is lost/ });
    await machine.resume();
    await until(() => machine.events.some(({ kind }) => kind === 'halted'), machine);
    await until(() => /^FAIL page=7 have=00000000 want=[0-9A-F]{8}$/m.test(machine.console), machine);
  });

  test('pause() does not wait for the timer of a halted guest', async () => {
    const machine = await create({ memoryBytes, kernel: guest('counter'), commandLine: 'range=oops' });
    await machine.resume();
    await until(() => machine.console.includes('FAIL cannot read an option'), machine);
    await machine.pause();
    await machine.resume();
    await machine.pause();
    assert.deepEqual(machine.events, [{ kind: 'halted' }]);
  });

  test('what is sent to the serial console and not read yet moves with the guest', async () => {
    const source = await create({ memoryBytes, kernel: guest('counter') });
    await source.sendSerial(Buffer.from('hello'));
    const destination = await create({ memoryBytes });
    const state = await source.saveDevices();
    await destination.loadDevices(state);
    assert.deepEqual(await destination.saveDevices(), state);
    await assert.rejects(source.sendSerial(new Uint8Array(64 * 1024)), { message: /5 bytes wait/ });
  });

  test('a guest that resets a machine without a BIOS has crashed, and says so', async () => {
    const machine = await create({ memoryBytes, kernel: { path: file('reset.bin', RESET_KERNEL) } });
    await machine.resume();
    await until(() => machine.events.some(({ kind }) => kind === 'crashed'), machine);
    assert.deepEqual(
      machine.events.map(({ kind }) => kind),
      ['reset', 'crashed'],
    );
    await machine.pause();
    await assert.rejects(machine.resume(), { message: /no BIOS to start again from/ });
  });

  test('a guest with a triple fault has crashed', async () => {
    const machine = await create({ memoryBytes, kernel: { path: file('fault.bin', FAULT_KERNEL) } });
    await machine.resume();
    await until(() => machine.events.some(({ kind }) => kind === 'crashed'), machine);
    await machine.pause();
    await assert.rejects(machine.saveDevices(), { message: /The guest crashed/ });
  });

  test('a Linux kernel boots through the BIOS with its command line', async (t) => {
    if (!hasSeaBios(t)) return;
    const kernel = { path: file('bzimage', linuxKernel()) };
    const machine = await create({ memoryBytes, ...FIRMWARE, kernel, commandLine: 'console=ttyS0' });
    await machine.resume();
    await until(() => machine.console === 'console=ttyS0', machine);
  });

  test('what a guest wrote to its disk moves with it', async (t) => {
    if (!hasSeaBios(t)) return;
    const disk = Buffer.alloc(64 * 1024);
    disk.set(BOOT_SECTOR);
    disk.writeUInt16LE(0xaa55, 510);
    const options = { memoryBytes, ...FIRMWARE, hardDiskPath: file('boot.img', disk) };
    const source = await create(options);
    await source.resume();
    await until(() => source.console.includes('.'), source);
    const destination = await create(options);
    await source.pause();
    copyRam(source, destination);
    await destination.loadDevices(await source.saveDevices());
    await destination.resume();
    await until(() => /[.F]/.test(destination.console), destination);
    assert.doesNotMatch(source.console + destination.console, /F/);
  });

  test('create() refuses what cannot be made', async () => {
    const refused: [V86MachineOptions, object][] = [
      [{ memoryBytes: 1 * MIB }, { name: 'RangeError', message: /2 to 2047 whole MiB, got 1048576 bytes/ }],
      [{ memoryBytes: 2 * MIB + 4096 }, { name: 'RangeError' }],
      [{ memoryBytes: 2048 * MIB }, { name: 'RangeError' }],
      [
        { memoryBytes, vgaMemoryBytes: 3 * MIB },
        { name: 'RangeError', message: /power of two/ },
      ],
      [{ memoryBytes, kernel: { path: join(directory, 'none') } }, { code: 'ENOENT' }],
      [{ memoryBytes, kernel: { path: file('text', Buffer.from('no kernel')) } }, { name: 'TypeError' }],
      [{ memoryBytes, kernel: { path: file('linux', LINUX_HEADER) } }, { message: /needs a BIOS/ }],
      [{ memoryBytes, initrdPath: file('initrd', new Uint8Array(16)) }, { message: /needs a kernel/ }],
    ];
    for (const [options, expected] of refused) await assert.rejects(ThreadedV86.create(options), expected);
  });

  test('create() makes the smallest and the largest machine', async () => {
    for (const size of [2 * MIB, 2047 * MIB]) {
      const machine = await create({ memoryBytes: size, vgaMemoryBytes: 256 * 1024 });
      assert.deepEqual(
        machine.ramBlocks.map(({ lengthBytes }) => lengthBytes),
        [size, 256 * 1024],
      );
    }
  });

  test('resume() refuses a machine with nothing in it', async () => {
    const machine = await create({ memoryBytes });
    await assert.rejects(machine.resume(), { message: /no kernel, no BIOS and no loaded state/ });
  });

  for (const [what, place, value, message] of [
    ['text that fills all memory', [0, 52, 4], 2 ** 31, /text mode has 2147483648 columns/],
    ['a drive whose buffer is no buffer', [0, 85, 0, 0, 16], new Uint8Array(3), /buffer of a drive/],
    ['a firmware file that is none', [0, 62], ['x'], /firmware file/],
    ['a disk block beyond the end', [0, 85, 0, 0, 28, 1], Uint32Array.of(1e6), /do not fit/],
    ['more serial input than can wait', [2], new Uint8Array(70_000), /a queue must be at most 65536 bytes/],
    ['a TSC that is missing', [0, 43], null, /0\.43 must be a Uint32Array of 2 here/],
  ] as const) {
    test(`loadDevices() refuses ${what}`, async () => {
      const machine = await create({ memoryBytes });
      const state = forge(await machine.saveDevices(), place, value as StateValue);
      await assert.rejects(machine.loadDevices(state), { message });
    });
  }

  test('loadDevices() refuses the state of a machine made otherwise, and says what differs', async () => {
    const source = await create({ memoryBytes, kernel: guest('counter') });
    const state = await source.saveDevices();
    const others: [V86MachineOptions, RegExp][] = [
      [{ memoryBytes: 8 * MIB }, /memory size must be 8388608, got 16777216/],
      [{ memoryBytes, vgaMemoryBytes: 2 * MIB }, /video memory size must be 2097152, got 1048576/],
      [{ memoryBytes, acpi: true }, /0\.48\.56 must be a Int32Array of 64 here/],
      [{ memoryBytes, hardDiskPath: file('disk', new Uint8Array(512)) }, /it must have 512 bytes here/],
    ];
    for (const [options, message] of others) {
      await assert.rejects((await create(options)).loadDevices(state), { message });
    }
  });
});

/** The state with the value at `place` replaced, as a sender who means harm would make it: the checksum is right. */
function forge(state: Uint8Array, place: readonly number[], value: StateValue): Uint8Array {
  const decoded = decodeDeviceState(state);
  const last = place.at(-1)!;
  const list = place.slice(0, -1).reduce((tree, index) => (tree as StateValue[])[index]!, decoded.tree);
  (list as StateValue[])[last] = value;
  return encodeDeviceState(decoded);
}

/** A bzImage that writes its command line on COM1 and halts: mov si, 0xe000; then lodsb, out until zero; cli; hlt. */
function linuxKernel(): Uint8Array {
  const image = Buffer.alloc(3 * 512);
  image.writeUInt8(1, 0x1f1);
  image.writeUInt16LE(0xaa55, 0x1fe);
  image.set([0xeb, 0x66, ...Buffer.from('HdrS')], 0x200);
  image.writeUInt16LE(0x20c, 0x206);
  image.writeUInt8(1, 0x211);
  image.writeUInt32LE(255, 0x238);
  image.set(Buffer.from('be00e0ac84c07406baf803eeebf5faf4', 'hex'), 0x268);
  return image;
}

/**
 * A boot sector that writes itself to the next sector, then for ever waits for a timer interrupt, reads that sector
 * back and writes "." or, when it is not what was written, "F".
 */
const BOOT_SECTOR = Buffer.from(
  '31c08ed88ec08ed0bc007cfbb80103b90200ba8000bb007ccd13f4b80102b90200ba8000bb0080cd13b346720ba100803b06007c7502b32e88d8baf803eeebda',
  'hex',
);

/** A multiboot kernel of one piece, loaded at 1 MiB, that begins with `code`. */
function kernelOf(code: readonly number[]): Uint8Array {
  const image = new DataView(new ArrayBuffer(32 + code.length));
  const base = 0x100000;
  const words = [
    0x1badb002,
    0x10000,
    -(0x1badb002 + 0x10000),
    base,
    base,
    base + image.byteLength,
    0,
    base + 32,
  ];
  words.forEach((word, index) => {
    image.setUint32(index * 4, word, true);
  });
  const bytes = new Uint8Array(image.buffer);
  bytes.set(code, 32);
  return bytes;
}

/** mov al, 0xfe; out 0x64, al; jmp $: asks the keyboard controller for a reset. */
const RESET_KERNEL = kernelOf([0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe]);
/** ud2, without an interrupt table. */
const FAULT_KERNEL = kernelOf([0x0f, 0x0b]);
/**
 * Sets a flag in MXCSR (ldmxcsr) and one in the FPU status word (1 / 0), then checks both for ever (stmxcsr, fnstsw) and
 * writes "." or, when one is gone, "F" and stops.
 */
const FPU_KERNEL = kernelOf([
  ...Buffer.from(
    'bc000009000f20e00d000600000f22e068a01f00000fae1424dbe3d9e8d9eedef90fae1c24813c24a01f00007517dfe0a8047411b9a08601004975fd66baf803b02eeeebdc66baf803b046eeebfe',
    'hex',
  ),
]);
const LINUX_HEADER = Buffer.concat([Buffer.alloc(0x202), Buffer.from('HdrS'), Buffer.alloc(64)]);

function ramOf(machine: ThreadedV86): Uint8Array {
  const { hostAddress, lengthBytes } = machine.ramBlocks[0]!;
  return new Uint8Array(koffi.view(hostAddress, lengthBytes));
}

function copyRam(source: ThreadedV86, destination: ThreadedV86): void {
  ramOf(destination).set(ramOf(source));
}

function reportOf(machine: ThreadedV86): GuestReport {
  const ram = ramOf(machine);
  return checkGuest((offset, lengthBytes) => ram.subarray(offset, offset + lengthBytes));
}

function clockLines(machine: ThreadedV86): { tsc: number; pit: number }[] {
  const lines = machine.console.matchAll(/^tsc=([0-9A-F]{16}) pit=([0-9A-F]{8})$/gm);
  return Array.from(lines, ([, tsc, pit]) => ({ tsc: Number(`0x${tsc}`), pit: Number(`0x${pit}`) }));
}
