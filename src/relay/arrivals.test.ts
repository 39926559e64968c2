import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createConnection, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { Arrivals, MAX_KEPT } from './arrivals.ts';

const nextTurn = () => new Promise<false>((resolve) => setImmediate(() => resolve(false)));

async function openArrivals(t: TestContext): Promise<{ arrivals: Arrivals; come: () => Socket }> {
  const folder = mkdtempSync(join(tmpdir(), 'postcopy-test-'));
  const path = join(folder, 'sock');
  const arrivals = await Arrivals.open(`unix:${path}`);
  t.after(() => {
    arrivals.close();
    rmSync(folder, { recursive: true });
  });
  return {
    arrivals,
    come: () =>
      createConnection(path)
        .on('error', () => {})
        .resume(),
  };
}

test('Arrivals.next() leaves nothing at its signal, however many come', async (t) => {
  const { arrivals, come } = await openArrivals(t);
  const { signal } = new AbortController();
  for (let count = 0; count < 20; count++) {
    const next = arrivals.next(signal);
    come();
    (await next)?.close();
    assert.equal(getEventListeners(signal, 'abort').length, 0);
  }
});

test('Arrivals.next() ends with its signal, and what comes then is for the next one who asks', async (t) => {
  const { arrivals, come } = await openArrivals(t);
  const stop = new AbortController();
  const next = arrivals.next(stop.signal);
  stop.abort();
  assert.equal(await next, undefined);
  come();
  const channel = await arrivals.next(new AbortController().signal);
  assert.notEqual(channel, undefined);
  channel?.close();
});

test('Arrivals keeps so many that nobody has asked for, and closes what comes then', async (t) => {
  const { arrivals, come } = await openArrivals(t);
  for (let count = 1; count <= MAX_KEPT; count++) {
    come();
    while (arrivals.kept < count) await nextTurn();
  }
  let isClosed = false;
  come().once('close', () => {
    isClosed = true;
  });
  while (!isClosed && arrivals.kept === MAX_KEPT) await nextTurn();
  assert.equal(arrivals.kept, MAX_KEPT);
  (await arrivals.next(new AbortController().signal))?.close();
  come();
  while (arrivals.kept < MAX_KEPT) await nextTurn();
});
