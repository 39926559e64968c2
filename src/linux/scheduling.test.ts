import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
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

test('nameThread() names the calling thread; CompilerThreads are those of V8, not the main one and not workers', async () => {
  const module = new URL('./scheduling.js', import.meta.url).href;
  const code = `
    import { readdirSync, readFileSync } from 'node:fs';
    import { Worker } from 'node:worker_threads';
    import { CompilerThreads, nameThread } from ${JSON.stringify(module)};
    await new Promise((resolve) => setTimeout(resolve, 50));
    const worker = new Worker('setInterval(() => {}, 1000)', { eval: true });
    await new Promise((resolve) => worker.once('online', resolve));
    nameThread('a name that is too long');
    console.log(readFileSync('/proc/thread-self/comm', 'utf8').trim());
    const nices = () => readdirSync('/proc/self/task').map((thread) => {
      const stat = readFileSync('/proc/self/task/' + thread + '/stat', 'utf8').split(') ')[1].split(' ');
      return [Number(thread), Number(stat[16])];
    });
    const compilers = new CompilerThreads();
    const before = new Map(nices());
    compilers.giveWay(true);
    const lowered = nices().filter(([thread, nice]) => nice === before.get(thread) + 10).map(([thread]) => thread);
    console.log(lowered.length >= 4, lowered.length < before.size - 1, lowered.includes(process.pid));
    compilers.giveWay(false);
    console.log(nices().every(([thread, nice]) => nice === before.get(thread) || process.getuid() !== 0));
    process.exit();`;
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', code]);
  assert.deepEqual(stdout.trim().split('\n'), ['a name that is', 'true true false', 'true']);
});
