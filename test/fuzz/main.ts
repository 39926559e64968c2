/**
 * Fuzzes for longer, by command:
 *
 *   npm run fuzz -- [--minutes 10] [--target NAME] [--seed 1]     from this seed on, each target its share of the time
 *   npm run fuzz -- --target NAME --input 17.42.93                one input again, by the name that a finding has
 *   npm run fuzz -- --list
 */
import { parseArgs } from 'node:util';
import { fuzz, replay } from './fuzz.ts';
import { TARGETS } from './targets.ts';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '1' },
    target: { type: 'string' },
    seed: { type: 'string', default: '1' },
    input: { type: 'string' },
    list: { type: 'boolean', default: false },
  },
});

const targets = TARGETS.filter(({ name }) => values.target === undefined || name === values.target);
if (values.list || targets.length === 0) {
  for (const { name } of TARGETS) console.log(name);
  process.exit(values.list ? 0 : 2);
}

if (values.input !== undefined) {
  for (const target of targets) {
    const { broken, refusal } = await replay(target, values.input);
    console.log(`${target.name}: ${broken ?? refusal ?? 'accepted'}`);
    if (broken !== undefined) process.exitCode = 1;
  }
  process.exit();
}

const shareMs = (Number(values.minutes) * 60_000) / targets.length;
for (const target of targets) {
  const endsAtMs = performance.now() + shareMs;
  const report = await fuzz(target, {
    firstSeed: Number(values.seed),
    goOn: () => performance.now() < endsAtMs,
  });
  const { inputs, bytes, accepted, kinds, findings } = report;
  console.log(
    `${target.name.padEnd(20)} ${inputs} inputs, ${accepted} accepted, ${Math.round(bytes / 1024)} KiB, ${kinds} kinds of outcomes`,
  );
  for (const { seed, broken } of findings) {
    console.log(`  --target ${target.name} --input ${seed}: ${broken}`);
    process.exitCode = 1;
  }
}
