/**
 * How long it takes to save a guest whose memory is random: `postcopy save` against QEMU's own way, `migrate "exec:cat > f"`.
 *
 * All times begin with the command `migrate` and end when the file is there, on the disk where it says so:
 *
 *   save      until the snapshot is on the disk (fsync), has its name, and QEMU was told
 *   command   the same for the whole of `postcopy save`, from its start to its end
 *   synced    exec:cat, until the file is on the disk, by sync(1)
 *   unsynced  exec:cat, until the file is in the page cache, from where a crash of the host takes it
 *
 * They take turns, so that each finds the disk as the others do.
 */
import { spawn } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { SaveReport } from '../src/save/save-report.ts';
import { type Benchmark, type Figures, MIB, rounded } from './bench.ts';
import { warmHostMemory } from './host-memory.ts';
import { BenchQemu, randomMemory, whyNoQemu, withFolder } from './qemu-vm.ts';

const PROGRAM = fileURLToPath(new URL('../../bin/postcopy.js', import.meta.url));

export const save: Benchmark = {
  name: 'save',
  about:
    'time to save a guest with random memory to a file, against migrate "exec:cat > f", with and without sync',
  whyNot: whyNoQemu,
  async run(scale) {
    const [smallMib, largeMib, turns] = scale === 'tiny' ? [20, 40, 1] : [256, 2048, 5];
    return { small: await measure(smallMib, turns), large: await measure(largeMib, turns) };
  },
};

function measure(memoryMib: number, turns: number): Promise<Figures> {
  return withFolder(async (folder) => {
    const operator = join(folder, 'operator.qmp');
    const extraArgs = [...randomMemory(folder, memoryMib), '-qmp', `unix:${operator},server=on,wait=off`];
    const qemu = await BenchQemu.start({ memoryMib, folder, name: 'qemu', extraArgs });
    try {
      await qemu.qmp.execute('migrate-set-parameters', { 'max-bandwidth': 0 });
      const path = join(folder, 'saved');
      const times = { saveMs: [], commandMs: [], pauseMs: [], syncedMs: [], unsyncedMs: [] } as Record<
        string,
        number[]
      >;
      // The first writes find a disk whose blocks nobody has asked for yet: they do not count.
      for (let turn = 0; turn <= turns; turn++) {
        const ours = await withRoom(memoryMib, path, () => saveByUs(operator, path));
        const synced = await withRoom(memoryMib, path, () => saveByQemu(qemu, path, 'sync'));
        const unsynced = await withRoom(memoryMib, path, () => saveByQemu(qemu, path, 'true'));
        if (turn === 0 && turns > 1) continue;
        const { 'total-ms': saveMs, 'pause-ms': pauseMs = Number.NaN } = ours.report;
        const turnTimes = {
          saveMs,
          commandMs: ours.commandMs,
          pauseMs,
          syncedMs: synced,
          unsyncedMs: unsynced,
        };
        for (const [name, ms] of Object.entries(turnTimes)) times[name]?.push(rounded(ms));
      }
      const [ours, theirs] = [median(times['saveMs']), median(times['syncedMs'])];
      return { memoryMib, ...times, ratioToSynced: rounded(ours / theirs) };
    } finally {
      await qemu.close();
    }
  });
}

/** The host has the memory that a file takes in its cache: see host-memory.ts. */
async function withRoom<Result>(
  memoryMib: number,
  path: string,
  run: () => Promise<Result>,
): Promise<Result> {
  await warmHostMemory(memoryMib * MIB);
  try {
    return await run();
  } finally {
    rmSync(path, { force: true });
  }
}

async function saveByUs(qmp: string, path: string): Promise<{ report: SaveReport; commandMs: number }> {
  const startedAtMs = performance.now();
  const child = spawn(process.execPath, [PROGRAM, 'save', '--qmp', qmp, '--keep-running', '--json', path], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  child.stdout.on('data', (bytes) => (text += bytes));
  await new Promise((resolve) => child.once('close', resolve));
  return { commandMs: performance.now() - startedAtMs, report: JSON.parse(text) as SaveReport };
}

/** @param settle the command that follows on the file */
async function saveByQemu({ qmp }: BenchQemu, path: string, settle: 'sync' | 'true'): Promise<number> {
  const donePath = `${path}.done`;
  const startedAtMs = performance.now();
  await qmp.execute('migrate', { uri: `exec:cat > ${path} && ${settle} ${path} && : > ${donePath}` });
  while (!existsSync(donePath)) await sleep(1);
  const elapsedMs = performance.now() - startedAtMs;
  rmSync(donePath);
  for (let status: string | undefined; status !== 'completed'; await sleep(1)) {
    ({ status } = await qmp.execute<{ status?: string }>('query-migrate'));
    if (status === 'failed') throw new Error('The migration has failed');
  }
  await qmp.execute('cont');
  return elapsedMs;
}

function median(values: readonly number[] = []): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}
