import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { until } from '../../test/support/until.ts';
import { FakeMachine } from './fake-machine.ts';
import { howToRecover, pauseMs, type RecoveryEnd, type RecoveryOptions, recover } from './recovery.ts';
import { WatchedMachine } from './watched-machine.ts';

interface Rig {
  readonly source: FakeMachine;
  readonly destination: FakeMachine;
  readonly lines: string[];
  /** Waits until what a machine has become is known here. */
  seen(side: 'source' | 'destination', status: string): Promise<unknown>;
  recover(options?: Partial<RecoveryOptions>): Promise<RecoveryEnd>;
}

/** Two machines whose migration is paused, and whose destination takes `migrate-recover`. */
async function paused(t: TestContext): Promise<Rig> {
  const source = await FakeMachine.start(t);
  const destination = await FakeMachine.start(t);
  const machines = {
    source: await WatchedMachine.connect('source', source.path),
    destination: await WatchedMachine.connect('destination', destination.path),
  };
  source.info = { status: 'postcopy-paused' };
  destination.info = { status: 'postcopy-paused' };
  destination.commands['migrate-recover'] = () => {};
  for (const machine of Object.values(machines)) {
    await machine.refresh(1000);
    machine.watch();
    t.after(() => machine.close());
  }
  const lines: string[] = [];
  let count = 0;
  return {
    source,
    destination,
    lines,
    seen: (side, status) => until(`${side} to be ${status}`, () => machines[side].status === status),
    recover: (options = {}) =>
      recover({
        ...machines,
        limitMs: 20_000,
        whyNot: undefined,
        listenUri: () => `unix:/${++count}`,
        connectUri: (uri) => `${uri}-there`,
        isInterrupted: () => false,
        onLine: (text) => lines.push(text),
        untilChange: (timeoutMs) => sleep(Math.min(timeoutMs, 10)),
        ...options,
      }),
  };
}

/** The source has reached the destination, and pages come again. */
function goOn({ source, destination }: Rig): void {
  for (const machine of [source, destination]) {
    machine.enter('postcopy-recover');
    machine.enter('postcopy-active');
  }
}

test('recover() lets the destination listen, urgently, and the source connect', async (t) => {
  const rig = await paused(t);
  rig.source.commands['migrate'] = () => goOn(rig);
  assert.deepEqual(await rig.recover(), { kind: 'recovered' });
  assert.deepEqual(rig.destination.calls, ['!migrate-recover {"uri":"unix:/1"}']);
  assert.deepEqual(rig.source.calls, ['migrate {"uri":"unix:/1-there","resume":true}']);
  assert.deepEqual(rig.lines, ['attempt 1: the destination listens, the source connects to unix:/1-there']);
});

test('recover() first makes a side notice that the connection is lost', async (t) => {
  for (const late of ['source', 'destination'] as const) {
    const rig = await paused(t);
    rig[late].enter('postcopy-active');
    rig[late].commands['migrate-pause'] = () => rig[late].enter('postcopy-paused');
    rig.source.commands['migrate'] = () => goOn(rig);
    await rig.seen(late, 'postcopy-active');
    assert.deepEqual(await rig.recover({ noticeMs: 20 }), { kind: 'recovered' });
    assert.equal(rig[late].calls[0], '!migrate-pause {}');
  }
});

test('recover() leaves a side time to notice by itself, and takes no offence if it has', async (t) => {
  const rig = await paused(t);
  rig.source.enter('postcopy-active');
  rig.source.commands['migrate-pause'] = () => {
    rig.source.enter('postcopy-paused');
    throw 'it is paused already';
  };
  rig.source.commands['migrate'] = () => goOn(rig);
  await rig.seen('source', 'postcopy-active');
  assert.deepEqual(await rig.recover({ noticeMs: 100 }), { kind: 'recovered' });
  assert.equal(rig.lines.length, 1);
});

test('recover() tries again after a refusal, also where a destination takes its command only once', async (t) => {
  const rig = await paused(t);
  let attempts = 0;
  rig.source.commands['migrate'] = () => {
    attempts++;
    if (attempts === 1) throw 'no route to host';
    goOn(rig);
  };
  let isListening = false;
  rig.destination.commands['migrate-recover'] = () => {
    if (isListening) throw 'Migrate recovery is triggered already';
    isListening = true;
  };
  assert.deepEqual(await rig.recover(), { kind: 'recovered' });
  assert.deepEqual(rig.source.calls, Array(2).fill('migrate {"uri":"unix:/1-there","resume":true}'));
  assert.match(
    rig.lines.join('\n'),
    /attempt 1 has failed: no route to host; the next one in 1 s\nattempt 2: /,
  );
});

test('recover() gives up at its limit, with the last reason', async (t) => {
  const rig = await paused(t);
  rig.source.commands['migrate'] = () => {
    throw 'no route to host';
  };
  assert.deepEqual(await rig.recover({ limitMs: 200 }), {
    kind: 'given-up',
    why: 'it has not come to life within 200 ms (the last attempt that failed: no route to host)',
  });
});

test('recover() ends at once when it cannot be done, is not wanted, or a side has ended', async (t) => {
  const rig = await paused(t);
  assert.deepEqual(await rig.recover({ whyNot: 'it cannot' }), { kind: 'given-up', why: 'it cannot' });
  assert.deepEqual(await rig.recover({ isInterrupted: () => true }), { kind: 'interrupted' });
  rig.destination.end();
  assert.deepEqual(await rig.recover(), { kind: 'given-up', why: "the destination's process has ended" });
  assert.deepEqual(rig.source.calls, []);
});

test('recover() is content with a migration that has come to its end by itself', async (t) => {
  const rig = await paused(t);
  rig.source.enter('completed');
  await rig.seen('source', 'completed');
  assert.deepEqual(await rig.recover(), { kind: 'recovered' });
});

test('pauseMs() doubles from a second to half a minute', () => {
  assert.deepEqual(
    [1, 2, 3, 4, 5, 6, 7, 100].map(pauseMs),
    [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000],
  );
});

test('howToRecover() can be typed', () => {
  const text = howToRecover('tcp:0:1', 'tcp:h:1').join('\n');
  assert.match(
    text,
    /\(qemu\) migrate_recover tcp:0:1\n.*{"execute":"migrate-recover","arguments":{"uri":"tcp:0:1"}}/,
  );
  assert.match(
    text,
    /\(qemu\) migrate -r tcp:h:1\n.*{"execute":"migrate","arguments":{"uri":"tcp:h:1","resume":true}}/,
  );
});
