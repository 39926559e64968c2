/**
 * Simulates many migrations by command, and says how they ended.
 *
 *   npm run simulate -- --seeds 1000000 --from 1 --jobs 2    many; ends at the first that breaks a rule
 *   npm run simulate -- --seeds 1000000 --collect            many; counts those that break rules, by rule
 *   npm run simulate -- --seed 17                            one, with its story
 *   npm run simulate -- --seed 17 --shrink                   one that fails, made as small as it still fails
 *
 * Exits with 1 if a rule was broken, with 2 if it was called wrongly.
 */
import { parseArgs } from 'node:util';
import { isMainThread, parentPort, Worker } from 'node:worker_threads';
import { ruleOf, shrink } from './shrink.ts';
import { SimulationError, simulate } from './simulate.ts';

const BATCH_SEEDS = 500;
const PROGRESS_MS = 5000;
/** Of seeds that break the same rule, so many are told. */
const TOLD_SEEDS = 8;

interface Batch {
  readonly first: number;
  readonly count: number;
}

interface BatchResult {
  readonly outcomes: readonly (readonly [name: string, times: number])[];
  readonly failures: readonly { readonly seed: number; readonly rule: string }[];
}

if (isMainThread) process.exitCode = await main();
else serve();

async function main(): Promise<number> {
  const options = readOptions();
  if (options === undefined) return 2;
  if (options.seed !== undefined) return tellOne(options.seed, options.isShrinking);
  const { outcomes, failures, count } = await explore(options);
  const byTimes = [...outcomes].sort((left, right) => right[1] - left[1]);
  for (const [outcome, times] of byTimes) console.log(`${String(times).padStart(9)}  ${outcome}`);
  for (const [rule, seeds] of failures)
    console.log(
      `${String(seeds.length).padStart(9)}  BROKEN ${rule}: seeds ${seeds.slice(0, TOLD_SEEDS).join(' ')}`,
    );
  if (failures.size === 0) console.log(`${count} seeds, from ${options.from} on: no rule is broken`);
  const first = [...failures.values()].flat()[0];
  if (first !== undefined)
    console.log(`npm run simulate -- --seed ${first} --shrink    tells the story of one`);
  return failures.size === 0 ? 0 : 1;
}

function readOptions() {
  const number = (name: string, text: string, least: number) => {
    const value = Number(text);
    if (!Number.isSafeInteger(value) || value < least)
      throw new TypeError(`--${name} needs a whole number from ${least}`);
    return value;
  };
  try {
    const { values } = parseArgs({
      options: {
        seeds: { type: 'string', default: '10000' },
        from: { type: 'string', default: '1' },
        jobs: { type: 'string', default: '1' },
        seed: { type: 'string' },
        shrink: { type: 'boolean', default: false },
        collect: { type: 'boolean', default: false },
      },
    });
    return {
      seeds: number('seeds', values.seeds, 1),
      from: number('from', values.from, 0),
      jobs: number('jobs', values.jobs, 1),
      seed: values.seed === undefined ? undefined : number('seed', values.seed, 0),
      isShrinking: values.shrink,
      isCollecting: values.collect,
    };
  } catch (error) {
    console.error((error as Error).message);
    return undefined;
  }
}

function tellOne(seed: number, isShrinking: boolean): number {
  const shrunk = isShrinking ? shrink(seed) : undefined;
  if (shrunk !== undefined) {
    console.error(shrunk.error.message);
    return 1;
  }
  try {
    const { story, hash, source, destination, end } = simulate(seed, { keepsStory: true });
    console.log(story);
    console.log(`SEED=${seed} ${source} / ${destination}, ${end}; story ${hash}`);
    return 0;
  } catch (error) {
    console.error((error as Error).message);
    return 1;
  }
}

async function explore({ seeds, from, jobs, isCollecting }: NonNullable<ReturnType<typeof readOptions>>) {
  const outcomes = new Map<string, number>();
  const failures = new Map<string, number[]>();
  let [next, count] = [from, 0];
  let toldAtMs = performance.now();
  const take = (): Batch | undefined => {
    const isOver = next >= from + seeds || (failures.size > 0 && !isCollecting);
    if (isOver) return undefined;
    const batch = { first: next, count: Math.min(BATCH_SEEDS, from + seeds - next) };
    next += batch.count;
    return batch;
  };
  const heed = (batch: Batch, result: BatchResult) => {
    count += batch.count;
    for (const [name, times] of result.outcomes) outcomes.set(name, (outcomes.get(name) ?? 0) + times);
    for (const { seed, rule } of result.failures) failures.set(rule, [...(failures.get(rule) ?? []), seed]);
    if (performance.now() - toldAtMs < PROGRESS_MS) return;
    toldAtMs = performance.now();
    const broken = [...failures.values()].flat().length;
    console.error(`${count} of ${seeds} seeds, ${broken} broke a rule`);
  };
  const work = async () => {
    const worker = new Worker(new URL(import.meta.url));
    for (let batch = take(); batch !== undefined; batch = take()) {
      worker.postMessage(batch);
      heed(
        batch,
        await new Promise<BatchResult>((resolve, reject) => {
          worker.once('message', resolve);
          worker.once('error', reject);
        }),
      );
    }
    await worker.terminate();
  };
  await Promise.all(Array.from({ length: jobs }, work));
  return { outcomes, failures, count };
}

function serve(): void {
  parentPort?.on('message', (batch: Batch) => parentPort?.postMessage(runBatch(batch)));
}

function runBatch({ first, count }: Batch): BatchResult {
  const outcomes = new Map<string, number>();
  const failures: { seed: number; rule: string }[] = [];
  for (let seed = first; seed < first + count; seed++) {
    try {
      const { source, destination, end, wasPostcopy, recoveries, isRolledBack } = simulate(seed);
      const traits = [
        wasPostcopy && 'postcopy',
        recoveries > 0 && 'recovered',
        isRolledBack && 'rolled back',
      ];
      const name = [`${source} / ${destination}`, end, ...traits.filter((trait) => trait !== false)].join(
        ', ',
      );
      outcomes.set(name, (outcomes.get(name) ?? 0) + 1);
    } catch (error) {
      if (!(error instanceof SimulationError)) throw error;
      failures.push({ seed, rule: ruleOf(error) });
    }
  }
  return { outcomes: [...outcomes], failures };
}
