/**
 * What dirty tracking costs the guest: passes over its memory per second of its clock, while nothing is migrated, and while
 * a precopy that cannot converge goes on, with either way of tracking.
 */
import { type Benchmark, type Figures, MIB, rounded, type Scale } from './bench.ts';
import type { RemoteVm, Tick } from './remote-vm.ts';
import { withTwoVms } from './two-vms.ts';

export const dirtyTracking: Benchmark = {
  name: 'dirty-tracking',
  about: 'guest speed without tracking, with asynchronous and with synchronous write protection',
  async run(scale) {
    return { asynchronous: await measure(scale, 'async'), synchronous: await measure(scale, 'sync') };
  },
};

const BYTES_PER_SECOND = 64 * MIB;

function measure(scale: Scale, how: 'async' | 'sync'): Promise<Figures> {
  const [memoryMib, ticks] = scale === 'tiny' ? [16, 3] : [64, 30];
  const guest = {
    memoryMib,
    guest: 'counter',
    commandLine: `range=${memoryMib / 4}M`,
    dirtyTracking: how,
  } as const;
  return withTwoVms(guest, async ({ source, destination }) => {
    const passesWithout = await passesPerSecond(source, ticks);
    // Each pass takes longer than the guest needs to write its range again, so there is always something left.
    await source.configure(false, { 'downtime-limit': 0, 'max-bandwidth': BYTES_PER_SECOND });
    await source.migrate(await destination.address());
    await passesPerSecond(source, 2); // what was on its way before tracking began
    const before = await source.query();
    const passesTracked = await passesPerSecond(source, ticks);
    const after = await source.query();
    const scans = (after.ram?.['dirty-sync-count'] ?? 0) - (before.ram?.['dirty-sync-count'] ?? 0);
    const elapsedMs = (after['total-time'] ?? 0) - (before['total-time'] ?? 0);
    return {
      passesWithoutPerSecond: rounded(passesWithout),
      passesTrackedPerSecond: rounded(passesTracked),
      speedKeptPercent: rounded((100 * passesTracked) / passesWithout),
      scansPerSecond: rounded((1000 * scans) / elapsedMs),
    };
  });
}

/** Over the next so many ticks of the guest's console, a tenth of a second each. */
async function passesPerSecond(vm: RemoteVm, ticks: number): Promise<number> {
  const from = (await vm.ticks()).at(-1) as Tick;
  await vm.until(
    async () => ((await vm.ticks()).at(-1) as Tick).tick >= from.tick + ticks,
    'the guest to tick',
  );
  const to = (await vm.ticks()).at(-1) as Tick;
  return ((to.pass - from.pass) * 1000) / (to.ms - from.ms);
}
