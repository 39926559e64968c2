/**
 * How long the guest stands still, from its last instruction at the source to its first at the destination: at the switch
 * to postcopy, and when precopy converges on a guest that writes little or much.
 */
import type { Parameters } from '../src/migration/parameters.ts';
import type { Benchmark, Figures } from './bench.ts';
import type { GuestSettings } from './remote-vm.ts';
import { withTwoVms } from './two-vms.ts';

/** Short enough that a guest which writes much does not converge on the way. */
const SWITCH_AFTER_MS = 100;

export const downtime: Benchmark = {
  name: 'downtime',
  about: 'guest-seen downtime: switch to postcopy, against the end of precopy',
  async run(scale) {
    const memoryMib = scale === 'tiny' ? 16 : 256;
    const counter = { memoryMib, guest: 'counter', commandLine: `range=${memoryMib / 4}M` } as const;
    const modest = { memoryMib, guest: 'random', commandLine: `range=${memoryMib / 4}M rate=2000` } as const;
    const unlimited = { 'max-bandwidth': 0 };
    return {
      postcopySwitch: await move(counter, true, {
        'x-postcopy-start-time': SWITCH_AFTER_MS,
        'downtime-limit': 0,
        ...unlimited,
      }),
      precopyOfModestWriter: await move(modest, false, unlimited),
      precopyOfHeavyWriter: await move(counter, false, { ...unlimited, 'downtime-limit': 2000 }),
    };
  },
};

function move(guest: GuestSettings, postcopy: boolean, parameters: Partial<Parameters>): Promise<Figures> {
  return withTwoVms(guest, async ({ source, migrate }) => {
    await source.configure(postcopy, parameters);
    const infos = await migrate();
    return {
      guestDowntimeUs: infos.destination['x-guest-downtime-us'] ?? Number.NaN,
      sentWhileStoppedBytes: infos.source.ram?.['downtime-bytes'] ?? Number.NaN,
      sourceDowntimeMs: infos.source.downtime ?? Number.NaN,
    };
  });
}
