/**
 * A short form of `npm run soak`: every way of moving once in each direction, and a little more.
 */
import { test } from 'node:test';
import { soak } from '../soak/soak.ts';

test(
  'a guest that goes there and back between two processes leaves nothing behind in them',
  {
    timeout: 300_000,
  },
  (t) => soak(t, { migrations: 16, memoryMib: 16, sampleEvery: 2 }),
);
