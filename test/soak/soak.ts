/**
 * A guest goes there and back many times; at the end it is whole, and the two processes hold no more than near the beginning.
 *
 *   fds, threads   the same at every sample: each has an owner that closes it
 *   memory         the least of the last samples against the least of the first, since garbage comes and goes. A guest's memory
 *                  that is not given back would be 16 MiB a time, a thread that is kept some 5 MiB.
 *   mappings       likewise
 *
 * koffi, which makes our system calls, never gives back what it holds for a thread: three mappings and some 35 KiB for each
 * that ends. A migration has two threads a side on average: as a source one, as a destination three, with the machine's.
 */
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import { checkMemory } from '../support/guest-memory.ts';
import { Exchange, type Sample } from './exchange.ts';
import type { ProcessResources } from './process-resources.ts';

const RESIDENT_SLACK_BYTES = 12 * 2 ** 20;
const RESIDENT_BYTES_PER_MIGRATION = 2 * 48 * 1024;
const MAPPINGS_PER_MIGRATION = 2 * 3;
/** What the compilers of V8 and the allocator come and go with. */
const MAPPINGS_SLACK = 150;

export interface SoakOptions {
  readonly migrations: number;
  readonly memoryMib: number;
  /** Migrations between two samples: an even number, so that the guest is at the same side. */
  readonly sampleEvery: number;
  readonly onSample?: (line: string) => void;
}

/** @throws {AssertionError} if anything has grown, or the guest is not whole */
export async function soak(t: TestContext, options: SoakOptions): Promise<void> {
  const { migrations, memoryMib, sampleEvery, onSample = () => {} } = options;
  assert(sampleEvery % 2 === 0 && migrations >= 4 * sampleEvery, 'an even number, for at least 4 samples');
  const exchange = await Exchange.start(t, { memoryMib });
  const before = checkMemory(await exchange.saveMemory());
  const samples: Sample[] = [];
  while (exchange.migrations < migrations) {
    await exchange.move();
    if (exchange.migrations % sampleEvery !== 0) continue;
    const sample = await exchange.sample();
    samples.push(sample);
    onSample(describe(sample));
  }
  await exchange.holder.untilMoreTicks();
  const after = checkMemory(await exchange.saveMemory());
  assert.equal(after.nonce, before.nonce, 'it is another guest');
  assert(after.tick > before.tick);
  for (const side of [0, 1] as const) assertSteady(samples, side);
}

function assertSteady(samples: readonly Sample[], side: 0 | 1): void {
  const of = (sample: Sample) => sample.sides[side];
  const quarter = Math.max(2, Math.floor(samples.length / 4));
  const [first, last] = [samples.slice(0, quarter), samples.slice(-quarter)];
  const least = (some: readonly Sample[], key: keyof ProcessResources) =>
    Math.min(...some.map((sample) => of(sample)[key]));
  for (const key of ['fds', 'threads'] as const) {
    assert.equal(least(last, key), least(first, key), `side ${side}: ${key} have grown`);
  }
  const grownBytes = least(last, 'residentBytes') - least(first, 'residentBytes');
  const migrations = (last.at(-1)?.migrations ?? 0) - (first[0]?.migrations ?? 0);
  assert(
    grownBytes <= RESIDENT_BYTES_PER_MIGRATION * migrations + RESIDENT_SLACK_BYTES,
    `side ${side}: ${grownBytes} bytes more after ${migrations} migrations`,
  );
  const grown = least(last, 'mappings') - least(first, 'mappings');
  assert(
    grown <= MAPPINGS_PER_MIGRATION * migrations + MAPPINGS_SLACK,
    `side ${side}: ${grown} mappings more after ${migrations} migrations`,
  );
}

function describe({ migrations, sides }: Sample): string {
  const text = ({ fds, threads, mappings, residentBytes }: ProcessResources) =>
    `${fds} fds, ${threads} threads, ${mappings} mappings, ${(residentBytes / 2 ** 20).toFixed(1)} MiB`;
  return `${String(migrations).padStart(5)}  ${text(sides[0])}  |  ${text(sides[1])}`;
}
