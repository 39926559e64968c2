/**
 * `npm run bench`: runs benchmarks and prints their figures as JSON.
 *
 *   node dist/bench/main.js [NAME...] [--tiny] [--runs N]
 *
 * Progress goes to standard error. Figures depend on the machine and on what else runs there: both are in the output.
 */
import { cpus, loadavg, release } from 'node:os';
import { parseArgs } from 'node:util';
import type { Figures } from './bench.ts';
import { BENCHMARKS } from './benchmarks.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { tiny: { type: 'boolean', default: false }, runs: { type: 'string', default: '1' } },
});
const unknown = positionals.filter((name) => !BENCHMARKS.some((benchmark) => benchmark.name === name));
const runs = Number(values.runs);
if (unknown.length > 0 || !Number.isInteger(runs) || runs < 1) {
  console.error(`Usage: main.js [NAME...] [--tiny] [--runs N]\n`);
  for (const { name, about } of BENCHMARKS) console.error(`  ${name.padEnd(20)} ${about}`);
  process.exit(2);
}

const results: Record<string, Figures[]> = {};
for (const { name, run, whyNot } of BENCHMARKS) {
  if (positionals.length > 0 && !positionals.includes(name)) continue;
  const missing = whyNot?.();
  if (missing !== undefined) {
    process.stderr.write(`${name} is left out: ${missing}\n`);
    continue;
  }
  const figures: Figures[] = [];
  for (let count = 1; count <= runs; count++) {
    process.stderr.write(`${name}, run ${count} of ${runs}\n`);
    const [loadBefore = Number.NaN] = loadavg();
    figures.push({ loadBefore, ...(await run(values.tiny ? 'tiny' : 'full')) });
  }
  results[name] = figures;
}
const host = {
  processor: cpus()[0]?.model ?? '',
  processors: cpus().length,
  kernel: release(),
  node: process.version,
};
console.log(JSON.stringify({ at: new Date().toISOString(), host, results }, undefined, 2));
