import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { Arrivals } from './arrivals.ts';

async function openArrivals(t: TestContext): Promise<{ arrivals: Arrivals; come: () => void }> {
  const folder = mkdtempSync(join(tmpdir(), 'postcopy-test-'));
  const path = join(folder, 'sock');
  const arrivals = await Arrivals.open(`unix:${path}`);
  t.after(() => {
    arrivals.close();
    rmSync(folder, { recursive: true });
  });
  return { arrivals, come: () => createConnection(path).on('error', () => {}) };
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
