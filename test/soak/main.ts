/**
 * `npm run soak`: hundreds of migrations of one guest, there and back between two processes, and what they hold after each.
 *
 *   npm run soak -- --migrations 500 --memory 64 --every 14
 *
 * It prints a line for every sample and ends with code 1 if anything has grown, or the guest is not whole.
 */
import { test } from 'node:test';
import { parseArgs } from 'node:util';
import { soak } from './soak.ts';

const { values } = parseArgs({
  options: {
    migrations: { type: 'string', default: '500' },
    memory: { type: 'string', default: '16' },
    every: { type: 'string', default: '14' },
  },
});
const wanted = (name: keyof typeof values): number => {
  const value = Number(values[name]);
  if (Number.isSafeInteger(value) && value > 0) return value;
  console.error(`--${name} must be a whole number above 0, got "${values[name]}"`);
  process.exit(2);
};

const options = {
  migrations: wanted('migrations'),
  memoryMib: wanted('memory'),
  sampleEvery: wanted('every'),
  onSample: (line: string) => console.log(line),
};
test(`${options.migrations} migrations there and back`, { timeout: Number.POSITIVE_INFINITY }, (t) =>
  soak(t, options),
);
