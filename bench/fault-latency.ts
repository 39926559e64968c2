/**
 * How long a page that the guest waits for takes, from the fault being read to the page being placed, while everything
 * else is pushed behind it: as fast as it goes, and throttled. The floor is the round trip of the same bytes between two
 * idle processes.
 */
import { TARGET_PAGE_BYTES } from '../src/memory/ram-block.ts';
import { bareRoundTripsUs } from './bare-socket.ts';
import { type Benchmark, type Figures, MIB, percentiles, type Scale } from './bench.ts';
import { withTwoVms } from './two-vms.ts';

/** REQ_PAGES: header, start, length. */
const REQUEST_BYTES = 4 + 12;
/** A PART section with one page: type and id; header and content; EOS; footer. */
const REPLY_BYTES = 5 + 8 + TARGET_PAGE_BYTES + 8 + 5;
const THROTTLED_BYTES_PER_SECOND = 16 * MIB;

export const faultLatency: Benchmark = {
  name: 'fault-latency',
  about:
    'waiting for a page in postcopy, bulk unlimited and throttled, against the bare round trip of the same bytes',
  async run(scale) {
    const rounds = scale === 'tiny' ? 100 : 20_000;
    return {
      floorUs: percentiles(await bareRoundTripsUs(REQUEST_BYTES, REPLY_BYTES, rounds)),
      bulkUnlimited: await postcopy(scale, 0),
      bulkThrottled: await postcopy(scale, THROTTLED_BYTES_PER_SECOND),
    };
  },
};

function postcopy(scale: Scale, bulkBytesPerSecond: number): Promise<Figures> {
  const memoryMib = scale === 'tiny' ? 16 : 256;
  const guest = { memoryMib, guest: 'random', commandLine: `range=${memoryMib - 4}M` } as const;
  return withTwoVms(guest, async ({ source, migrate }) => {
    await source.configure(true, {
      'x-postcopy-start-time': 1,
      'max-bandwidth': MIB,
      'max-postcopy-bandwidth': bulkBytesPerSecond,
    });
    const { destination } = await migrate();
    return {
      latencyUs: { ...destination['x-page-request-latency-us'] },
      demandedPages: destination['x-pages-demanded'] ?? 0,
      pushedPages: destination['x-pages-pushed'] ?? 0,
      guestDowntimeUs: destination['x-guest-downtime-us'] ?? Number.NaN,
      residentMs: destination['x-resident-ms'] ?? Number.NaN,
    };
  });
}
