/**
 * Resident memory of both processes, over what the guest has, with all guest memory in use.
 */
import { type Benchmark, type Figures, MIB } from './bench.ts';
import type { RemoteVm } from './remote-vm.ts';
import { withTwoVms } from './two-vms.ts';

export const memory: Benchmark = {
  name: 'memory',
  about: 'resident memory of source and destination beyond guest RAM, by precopy and by postcopy',
  async run(scale) {
    const memoryMib = scale === 'tiny' ? 16 : 256;
    return { precopy: await move(memoryMib, false), postcopy: await move(memoryMib, true) };
  },
};

function move(memoryMib: number, postcopy: boolean): Promise<Figures> {
  const guest = { memoryMib, guest: 'reader', commandLine: `range=${memoryMib - 4}M` } as const;
  return withTwoVms(guest, async ({ source, destination, migrate }) => {
    const sourceBeforeBytes = source.residentBytes().now;
    await source.configure(postcopy, { 'max-bandwidth': 0, 'x-postcopy-start-time': postcopy ? 1 : 0 });
    await migrate();
    const guestRamBytes = memoryMib * MIB;
    return {
      guestRamBytes,
      sourceBeforeBytes: sourceBeforeBytes - guestRamBytes,
      source: beyond(source, guestRamBytes),
      destination: beyond(destination, guestRamBytes),
    };
  });
}

/** Less than zero if the guest has not touched all its memory. */
function beyond(vm: RemoteVm, guestRamBytes: number): Figures {
  const { now, peak } = vm.residentBytes();
  return { nowBytes: now - guestRamBytes, peakBytes: peak - guestRamBytes };
}
