/**
 * The suite every machine passes: what src/machine/machine.ts promises, held from outside.
 *
 * The source's guest must write its memory all the time. The destination is a machine waiting for a guest.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { closeSync, openSync, readSync } from 'node:fs';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import koffi from 'koffi';
import { type Machine, monotonicNs } from '../../src/machine/machine.ts';
import type { RamBlock } from '../../src/memory/ram-block.ts';

export interface MachineContractOptions {
  /** Proves the guest's memory of a paused machine; throws if it is wrong. */
  readonly checkGuest?: (ram: Uint8Array) => void;
}

const DEADLINE_MS = 30_000;
const HOST_PAGE_BYTES = 4096;

export function machineContract(
  name: string,
  createSource: () => Promise<Machine>,
  createDestination: () => Promise<Machine>,
  { checkGuest = () => {} }: MachineContractOptions = {},
): void {
  describe(`${name} as a machine`, { timeout: 4 * DEADLINE_MS }, () => {
    let source: Machine;
    let destination: Machine;

    beforeEach(async () => {
      [source, destination] = await Promise.all([createSource(), createDestination()]);
    });
    afterEach(async () => {
      await Promise.all([source.close(), destination.close()]);
    });

    test('both ends agree on machine type, device section and RAM blocks', () => {
      assert.equal(destination.machineType, source.machineType);
      assert.deepEqual(destination.deviceSection, source.deviceSection);
      assert.deepEqual(destination.ramBlocks.map(layoutOf), source.ramBlocks.map(layoutOf));
      assert.match(source.deviceSection.idstr, /^[\x21-\x7e]{1,255}$/);
    });

    test('ramBlocks are whole pages at aligned addresses that other threads can read', () => {
      assert.notEqual(source.ramBlocks.length, 0);
      for (const block of source.ramBlocks) {
        assert.match(block.idstr, /^[\x21-\x7e]{1,255}$/);
        assert.equal(block.lengthBytes % block.pageSizeBytes, 0);
        assert.equal(block.hostAddress % BigInt(block.pageSizeBytes), 0n);
        assert.equal(bytesOf(block).length, block.lengthBytes);
        hashOf([block]);
      }
    });

    test('resume() lets the guest write RAM, and pause() ends that', async () => {
      await runUntilRamChanges(source);
      const paused = hashOf(source.ramBlocks);
      await sleep(20);
      assert.equal(hashOf(source.ramBlocks), paused);
    });

    test('resume() and pause() say when the guest ran', async () => {
      const beforeNs = monotonicNs();
      const resumedNs = await source.resume();
      const runningNs = monotonicNs();
      const pausedNs = await source.pause();
      assert.ok(beforeNs <= resumedNs && resumedNs <= runningNs, 'resumed between the call and its end');
      assert.ok(
        resumedNs <= pausedNs && pausedNs <= monotonicNs(),
        'paused between resume and the end of pause',
      );
    });

    test('pause() and resume() may be called again', async () => {
      await source.pause();
      assert.equal(await source.resume(), await source.resume());
      const [first, second] = await Promise.all([source.pause(), source.pause()]);
      assert.equal(first, second);
      assert.equal(await source.pause(), first);
      await runUntilRamChanges(source);
    });

    test('saveDevices() and loadDevices() are refused while the guest runs', async () => {
      await source.pause();
      const state = await source.saveDevices();
      await source.resume();
      await assert.rejects(source.saveDevices());
      await assert.rejects(source.loadDevices(state));
    });

    test('a guest goes on at the destination where it stopped', async () => {
      for (let move = 0; move < 3; move++) {
        await runUntilRamChanges(source);
        checkGuest(bytesOf(source.ramBlocks[0]!));
        const state = await source.saveDevices();
        copyRam(source, destination);
        const moved = hashOf(destination.ramBlocks);
        await destination.loadDevices(state);
        assert.equal(hashOf(destination.ramBlocks), moved, 'loadDevices() leaves RAM as it is');

        await runUntilRamChanges(destination);
        checkGuest(bytesOf(destination.ramBlocks[0]!));
        [source, destination] = [destination, source];
      }
    });

    test('saveDevices() gives equal bytes when nothing ran in between', async () => {
      await runUntilRamChanges(source);
      const state = await source.saveDevices();
      copyRam(source, destination);
      await destination.loadDevices(state);
      assert.deepEqual(await destination.saveDevices(), await source.saveDevices());
    });

    test('loadDevices() touches no RAM: pages may be missing', async () => {
      await runUntilRamChanges(source);
      const state = await source.saveDevices();
      for (const block of destination.ramBlocks) dropPages(block);
      await destination.loadDevices(state);
      assert.deepEqual(
        destination.ramBlocks.map(presentPages),
        destination.ramBlocks.map(() => 0),
      );
    });

    for (const [what, damage] of DAMAGES) {
      test(`loadDevices() refuses a state ${what}`, async () => {
        await source.pause();
        const state = await source.saveDevices();
        await assert.rejects(destination.loadDevices(damage(state)), Error);
        await assert.rejects(destination.resume(), 'a machine that refused a state is unusable');
      });
    }

    test('close() may be called twice, and while the guest runs', async () => {
      await source.resume();
      await source.close();
      await source.close();
      await destination.close();
      await destination.close();
    });
  });
}

const DAMAGES: readonly (readonly [what: string, damage: (state: Uint8Array) => Uint8Array])[] = [
  ['that is empty', () => new Uint8Array(0)],
  ['that lacks its last byte', (state) => state.slice(0, -1)],
  ['that is cut in half', (state) => state.slice(0, state.length >> 1)],
  ['with a byte too many', (state) => Uint8Array.of(...state, 0)],
  ['of another format', (state) => withFlippedByte(state, 0)],
  ['of another version', (state) => withFlippedByte(state, 4)],
  ['with a changed byte in the middle', (state) => withFlippedByte(state, state.length >> 1)],
  ['with a changed last byte', (state) => withFlippedByte(state, state.length - 1)],
];

function withFlippedByte(state: Uint8Array, at: number): Uint8Array {
  const damaged = state.slice();
  damaged[at]! ^= 0x55;
  return damaged;
}

/** Lets the guest run until its RAM is another, and leaves it paused. */
async function runUntilRamChanges(machine: Machine): Promise<void> {
  await machine.pause();
  const before = hashOf(machine.ramBlocks);
  const deadlineNs = monotonicNs() + BigInt(DEADLINE_MS) * 1_000_000n;
  do {
    assert.ok(monotonicNs() < deadlineNs, `the guest wrote nothing in ${DEADLINE_MS} ms`);
    await machine.resume();
    await sleep(50);
    await machine.pause();
  } while (hashOf(machine.ramBlocks) === before);
}

function copyRam(source: Machine, destination: Machine): void {
  source.ramBlocks.forEach((block, index) => {
    bytesOf(destination.ramBlocks[index]!).set(bytesOf(block));
  });
}

/** The memory of a block, wherever in this process it is mapped. */
function bytesOf(block: RamBlock): Uint8Array {
  return new Uint8Array(koffi.view(block.hostAddress, block.lengthBytes));
}

function hashOf(blocks: readonly RamBlock[]): string {
  const hash = createHash('sha1');
  for (const block of blocks) hash.update(bytesOf(block));
  return hash.digest('hex');
}

function layoutOf({ idstr, lengthBytes, pageSizeBytes }: RamBlock): object {
  return { idstr, lengthBytes, pageSizeBytes };
}

const madvise = koffi.load('libc.so.6').func('int madvise(uint64_t addr, uint64_t length, int advice)');
const MADV_DONTNEED = 4;

/** Takes all pages from a block, as a destination does before it listens. */
function dropPages({ hostAddress, lengthBytes }: RamBlock): void {
  assert.equal(madvise(hostAddress, lengthBytes, MADV_DONTNEED), 0);
}

/** Pages of a block that have memory behind them: bit 63 of each entry of the pagemap, bit 62 if swapped out. */
function presentPages({ hostAddress, lengthBytes }: RamBlock): number {
  const entries = Buffer.alloc((lengthBytes / HOST_PAGE_BYTES) * 8);
  const fd = openSync('/proc/self/pagemap', 'r');
  try {
    readSync(fd, entries, 0, entries.length, Number(hostAddress / BigInt(HOST_PAGE_BYTES)) * 8);
  } finally {
    closeSync(fd);
  }
  let present = 0;
  for (let at = 7; at < entries.length; at += 8) if (entries[at]! >> 6 !== 0) present++;
  return present;
}
