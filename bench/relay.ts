/**
 * What a relay costs: a precopy and the page requests of a postcopy, direct and through `postcopy relay`, one after the
 * other in one run. Two machines of ours are the peers; the relay is a process of its own on the same host.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { type Benchmark, type Figures, MIB, rounded, type Scale } from './bench.ts';
import { warmHostMemory } from './host-memory.ts';
import { withTwoVms } from './two-vms.ts';

const PROGRAM = fileURLToPath(new URL('../../bin/postcopy.js', import.meta.url));
/** A bulk that leaves the processors time: what a request takes is then the way, and not the wait for a processor. */
const BULK_BYTES_PER_SECOND = 16 * MIB;

export const relay: Benchmark = {
  name: 'relay',
  about: 'precopy of full memory, and page requests in postcopy: direct against through a relay, alternating',
  async run(scale) {
    const pairs = scale === 'tiny' ? 1 : 3;
    const precopies: { direct: number[]; relayed: number[] } = { direct: [], relayed: [] };
    const latencies: { direct: number[]; relayed: number[] } = { direct: [], relayed: [] };
    for (let pair = 0; pair < pairs; pair++) {
      for (const how of ['direct', 'relayed'] as const) {
        precopies[how].push(await precopy(scale, how === 'relayed'));
        latencies[how].push(await medianRequestUs(scale, how === 'relayed'));
      }
    }
    return {
      precopyBytesPerSecond: figures(precopies),
      relayedShare: rounded(median(precopies.relayed) / median(precopies.direct)),
      medianRequestUs: figures(latencies),
      addedUs: rounded(median(latencies.relayed) - median(latencies.direct)),
    };
  },
};

function figures({ direct, relayed }: { direct: number[]; relayed: number[] }): Figures {
  return { direct: direct.map(rounded), relayed: relayed.map(rounded) };
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

async function precopy(scale: Scale, isRelayed: boolean): Promise<number> {
  const memoryMib = scale === 'tiny' ? 16 : 256;
  const guest = { memoryMib, guest: 'reader', commandLine: `range=${memoryMib - 4}M` } as const;
  return await withTwoVms(guest, async ({ source, migrate }) => {
    await source.configure(false, { 'max-bandwidth': 0 });
    await source.stop();
    return await withRelay(isRelayed, async (through) => {
      await warmHostMemory(2 * memoryMib * MIB);
      const infos = await migrate(through);
      return ((infos.source.ram?.['normal-bytes'] ?? 0) * 1000) / (infos.source['total-time'] ?? Number.NaN);
    });
  });
}

async function medianRequestUs(scale: Scale, isRelayed: boolean): Promise<number> {
  const memoryMib = scale === 'tiny' ? 16 : 256;
  const guest = { memoryMib, guest: 'random', commandLine: `range=${memoryMib - 4}M` } as const;
  return await withTwoVms(guest, async ({ source, migrate }) => {
    await source.configure(true, {
      'x-postcopy-start-time': 1,
      'max-bandwidth': MIB,
      'max-postcopy-bandwidth': BULK_BYTES_PER_SECOND,
    });
    return await withRelay(isRelayed, async (through) => {
      const { destination } = await migrate(through);
      return destination['x-page-request-latency-us']?.p50 ?? Number.NaN;
    });
  });
}

/** Runs `body` with what leads a source through a relay, or leads it nowhere else. */
async function withRelay<Result>(
  isRelayed: boolean,
  body: (through: (address: string) => Promise<string>) => Promise<Result>,
): Promise<Result> {
  if (!isRelayed) return await body(async (address) => address);
  let child: ChildProcess | undefined;
  try {
    const result = await body(async (address) => {
      child = spawn(process.execPath, [PROGRAM, 'relay', 'tcp:127.0.0.1:0', address], {
        stdio: ['ignore', 'ignore', 'pipe'],
      });
      return await listening(child);
    });
    if (child !== undefined && child.exitCode === null) await once(child, 'exit');
    assert.equal(child?.exitCode, 0, 'the relay failed');
    return result;
  } finally {
    child?.kill('SIGKILL');
  }
}

async function listening(child: ChildProcess): Promise<string> {
  let said = '';
  for await (const bytes of child.stderr!.iterator({ destroyOnReturn: false })) {
    said += bytes;
    const [, address] = /waiting for a source at (\S+)\n/.exec(said) ?? [];
    if (address === undefined) continue;
    child.stderr?.resume();
    return address;
  }
  throw new Error(`The relay does not listen: ${said}`);
}
