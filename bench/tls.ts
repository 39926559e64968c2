/**
 * What TLS costs: a precopy and the page requests of a postcopy, plain and protected, one after the other in one run.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Benchmark, type Figures, MIB, rounded, type Scale } from './bench.ts';
import { warmHostMemory } from './host-memory.ts';
import { type TlsOfBoth, type TwoVms, withTwoVms } from './two-vms.ts';

/** A bulk that leaves the processors time: what a request takes is then the way, and not the wait for a processor. */
const BULK_BYTES_PER_SECOND = 16 * MIB;
/** The suite is AES-128-GCM, as it is with certificates by default; those only matter to the handshake. */
const KEY = 'qemu:00112233445566778899aabbccddeeff\n';

export const tls: Benchmark = {
  name: 'tls',
  about: 'precopy of full memory, and page requests in postcopy: plain against protected by TLS, alternating',
  async run(scale) {
    const dir = mkdtempSync(join(tmpdir(), 'postcopy-bench-'));
    try {
      writeFileSync(join(dir, 'keys.psk'), KEY);
      const common = { 'qom-type': 'tls-creds-psk', dir } as const;
      const both = { server: { ...common, endpoint: 'server' }, client: { ...common, endpoint: 'client' } };
      const pairs = scale === 'tiny' ? 1 : 3;
      const precopies = { plain: [] as number[], protected: [] as number[] };
      const latencies = { plain: [] as number[], protected: [] as number[] };
      for (let pair = 0; pair < pairs; pair++) {
        for (const how of ['plain', 'protected'] as const) {
          const credentials = how === 'protected' ? both : undefined;
          precopies[how].push(await precopy(scale, credentials));
          latencies[how].push(await medianRequestUs(scale, credentials));
        }
      }
      return { precopyBytesPerSecond: figures(precopies), medianRequestUs: figures(latencies) };
    } finally {
      rmSync(dir, { recursive: true });
    }
  },
};

function figures(values: { plain: number[]; protected: number[] }): Figures {
  return { plain: values.plain.map(rounded), protected: values.protected.map(rounded) };
}

async function precopy(scale: Scale, credentials: TlsOfBoth | undefined): Promise<number> {
  const memoryMib = scale === 'tiny' ? 16 : 256;
  const guest = { memoryMib, guest: 'reader', commandLine: `range=${memoryMib - 4}M` } as const;
  const move = async ({ source, migrate }: TwoVms) => {
    await source.configure(false, { 'max-bandwidth': 0 });
    await source.stop();
    await warmHostMemory(2 * memoryMib * MIB);
    const infos = await migrate();
    return ((infos.source.ram?.['normal-bytes'] ?? 0) * 1000) / (infos.source['total-time'] ?? Number.NaN);
  };
  return await withTwoVms(guest, move, credentials);
}

async function medianRequestUs(scale: Scale, credentials: TlsOfBoth | undefined): Promise<number> {
  const memoryMib = scale === 'tiny' ? 16 : 256;
  const guest = { memoryMib, guest: 'random', commandLine: `range=${memoryMib - 4}M` } as const;
  const move = async ({ source, migrate }: TwoVms) => {
    await source.configure(true, {
      'x-postcopy-start-time': 1,
      'max-bandwidth': MIB,
      'max-postcopy-bandwidth': BULK_BYTES_PER_SECOND,
    });
    const { destination } = await migrate();
    return destination['x-page-request-latency-us']?.p50 ?? Number.NaN;
  };
  return await withTwoVms(guest, move, credentials);
}
