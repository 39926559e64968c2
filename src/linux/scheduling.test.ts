import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import os from 'node:os';
import { test } from 'node:test';
import { promisify } from 'node:util';
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

test('nameThread() names the calling thread, lowerHelperThreads() lowers all that are there but the main one', async () => {
  const module = new URL('./scheduling.js', import.meta.url).href;
  const code = `
    import { readdirSync, readFileSync } from 'node:fs';
    import { lowerHelperThreads, nameThread } from ${JSON.stringify(module)};
    nameThread('a name that is too long');
    lowerHelperThreads();
    const nice = (tid) => Number(readFileSync('/proc/self/task/' + tid + '/stat', 'utf8').split(') ')[1].split(' ')[16]);
    const threads = readdirSync('/proc/self/task').map(Number);
    const main = threads.indexOf(process.pid);
    const [own] = threads.splice(main, 1);
    console.log(readFileSync('/proc/thread-self/comm', 'utf8').trim());
    console.log(nice(own), Math.min(...threads.map(nice)));`;
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', code]);
  const [name, nices] = stdout.trim().split('\n');
  assert.equal(name, 'a name that is');
  assert.equal(nices, `${os.getPriority()} 10`);
});
