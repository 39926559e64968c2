import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';

/** Runs in a thread of its own, since a nice value that went up does not come down without privilege. */
test('scheduleThread() changes the calling thread only, and takes 0 for a nice value that is not allowed', async () => {
  const before = readFileSync('/proc/thread-self/stat', 'utf8').split(' ')[18];
  const module = new URL('./scheduling.js', import.meta.url).href;
  const code = `
    const { scheduleThread } = await import(${JSON.stringify(module)});
    const { readFileSync } = await import('node:fs');
    const { parentPort } = await import('node:worker_threads');
    const nice = () => Number(readFileSync('/proc/thread-self/stat', 'utf8').split(') ')[1].split(' ')[16]);
    scheduleThread({ sliceUs: 100, nice: -5 });
    const low = nice();
    scheduleThread({ sliceUs: 10000, nice: 5 });
    parentPort.postMessage([low, nice()]);`;
  const url = new URL(`data:text/javascript,${encodeURIComponent(code)}`);
  const worker = new Worker(url);
  const [low, high] = await new Promise<[number, number]>((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
  assert.ok(low === -5 || low === 0, `nice ${low}`);
  assert.equal(high, 5);
  assert.equal(readFileSync('/proc/thread-self/stat', 'utf8').split(' ')[18], before);
});
