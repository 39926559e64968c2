/**
 * Runs many simulated migrations by command, and says how they ended.
 *
 *   node dist/test/simulation/explore.js [how many seeds] [first seed]
 *   SEED=… node dist/test/simulation/explore.js     one of them, with its story
 */
import { simulate } from './simulate.ts';

const only = process.env['SEED'];
const first = only === undefined ? Number(process.argv[3] ?? 1) : Number(only);
const count = only === undefined ? Number(process.argv[2] ?? 10_000) : 1;
const outcomes = new Map<string, number>();
let failures = 0;

for (let seed = first; seed < first + count && failures < 3; seed++) {
  try {
    const { source, destination, wasPostcopy, recoveries, story } = simulate(seed);
    const outcome = `${source} / ${destination}${wasPostcopy ? ', postcopy' : ''}${recoveries > 0 ? ', recovered' : ''}`;
    outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
    if (only !== undefined) console.log(story);
  } catch (error) {
    failures++;
    console.error((error as Error).message);
  }
}
for (const [outcome, times] of [...outcomes].sort((left, right) => right[1] - left[1])) {
  console.log(`${String(times).padStart(8)}  ${outcome}`);
}
if (failures > 0) process.exitCode = 1;
