/**
 * How soon a saved guest runs, and how soon all of its memory is there: `postcopy restore` against QEMU's own way, which
 * reads a stream of everything first.
 */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Benchmark, type Figures, MIB, rounded } from './bench.ts';
import { warmHostMemory } from './host-memory.ts';
import { BenchQemu, type BenchQemuOptions, randomMemory, whyNoQemu, withFolder } from './qemu-vm.ts';

const PROGRAM = fileURLToPath(new URL('../../bin/postcopy.js', import.meta.url));

export const restore: Benchmark = {
  name: 'restore',
  about: 'start to first guest instruction and to all memory of a random guest, against -incoming "exec:cat"',
  whyNot: whyNoQemu,
  async run(scale) {
    const [smallMib, largeMib] = scale === 'tiny' ? [20, 40] : [256, 2048];
    return { small: await measure(smallMib), large: await measure(largeMib) };
  },
};

function measure(memoryMib: number): Promise<Figures> {
  return withFolder(async (folder) => {
    const snapshot = join(folder, 'snapshot');
    await save(folder, memoryMib, snapshot);
    const ours = [process.execPath, PROGRAM, 'restore', snapshot, '--'];
    const theirs = ['-incoming', `exec:cat ${snapshot}`];
    // Whoever is first finds the file unread and its index unmade.
    await start({ memoryMib, folder, name: 'warm', launcher: ours });
    const postcopy = await start({ memoryMib, folder, name: 'postcopy', launcher: ours });
    const qemu = await start({ memoryMib, folder, name: 'qemu', extraArgs: theirs });
    return {
      memoryMib,
      postcopy,
      qemu,
      runningRatio: rounded(postcopy.runningMs / qemu.runningMs),
      allMemoryRatio: rounded(postcopy.allMemoryMs / qemu.allMemoryMs),
    };
  });
}

/** The host has all memory that is about to be touched: see host-memory.ts. */
async function start(options: BenchQemuOptions) {
  await warmHostMemory(options.memoryMib * MIB);
  const qemu = await BenchQemu.start(options);
  try {
    const runningMs = rounded(await qemu.resumedMs());
    return { runningMs, allMemoryMs: rounded(await qemu.completedMs()) };
  } finally {
    await qemu.close();
  }
}

async function save(folder: string, memoryMib: number, path: string): Promise<void> {
  const qemu = await BenchQemu.start({
    memoryMib,
    folder,
    name: 'saved',
    extraArgs: randomMemory(folder, memoryMib),
  });
  try {
    await qemu.qmp.execute('migrate-set-parameters', { 'max-bandwidth': 0 });
    await qemu.qmp.execute('migrate', { uri: `exec:cat > ${path}` });
    await qemu.completedMs();
  } finally {
    await qemu.close();
  }
}
