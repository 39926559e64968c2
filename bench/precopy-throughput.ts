/**
 * How fast non-zero pages go from guest memory to guest memory, against a bare copy of as many bytes between the memories
 * of two processes over the same loopback. Before each the host has the memory that will be touched: see host-memory.ts.
 */

import { bareCopyMs } from './bare-socket.ts';
import { type Benchmark, type Figures, MIB, rounded } from './bench.ts';
import { warmHostMemory } from './host-memory.ts';
import { withTwoVms } from './two-vms.ts';

export const precopyThroughput: Benchmark = {
  name: 'precopy-throughput',
  about:
    'precopy of full memory without a limit, guest paused (also with checksums) and reading, against a bare copy',
  async run(scale) {
    // So much that the first quarter of a second, in which V8 compiles what precopy does, is not most of it.
    const memoryMib = scale === 'tiny' ? 16 : 1024;
    const paused = await precopy(memoryMib, true);
    const checked = await precopy(memoryMib, true, true);
    const reading = await precopy(memoryMib, false);
    await warmHostMemory(2 * memoryMib * MIB);
    const elapsedMs = await bareCopyMs(memoryMib * MIB);
    return {
      paused,
      checked,
      reading,
      bare: { elapsedMs: rounded(elapsedMs), bytesPerSecond: rounded((memoryMib * MIB * 1000) / elapsedMs) },
    };
  },
};

function precopy(memoryMib: number, isPaused: boolean, checksums = false): Promise<Figures> {
  const guest = { memoryMib, guest: 'reader', commandLine: `range=${memoryMib - 4}M` } as const;
  return withTwoVms(guest, async ({ source, migrate }) => {
    await source.configure(false, { 'max-bandwidth': 0 }, checksums);
    if (isPaused) await source.stop();
    await warmHostMemory(2 * memoryMib * MIB);
    const infos = await migrate();
    const nonZeroBytes = infos.source.ram?.['normal-bytes'] ?? 0;
    const totalMs = infos.source['total-time'] ?? Number.NaN;
    return { nonZeroBytes, totalMs, bytesPerSecond: rounded((nonZeroBytes * 1000) / totalMs) };
  });
}
