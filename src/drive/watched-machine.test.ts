import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type TestContext, test } from 'node:test';
import { FakeMachine } from './fake-machine.ts';
import { WatchedMachine } from './watched-machine.ts';

async function watched(t: TestContext): Promise<[FakeMachine, WatchedMachine]> {
  const fake = await FakeMachine.start(t);
  const machine = await WatchedMachine.connect('destination', fake.path);
  t.after(() => machine.close());
  return [fake, machine];
}

test('WatchedMachine knows after a question how things are', async (t) => {
  const [fake, machine] = await watched(t);
  assert.deepEqual([machine.status, machine.runState], ['none', 'unknown']);
  fake.info = { status: 'active', downtime: 7 };
  fake.runState = 'inmigrate';
  assert.equal(await machine.refresh(1000), true);
  assert.deepEqual([machine.status, machine.runState, machine.info.downtime], ['active', 'inmigrate', 7]);
  assert.equal(machine.hasRun, false);
  assert.equal(machine.silentMs, 0);
});

test('WatchedMachine tells each state once, by event or by answer, and lets no old answer undo an event', async (t) => {
  const [fake, machine] = await watched(t);
  const statuses: string[] = [];
  machine.on('status', (status) => statuses.push(status));
  fake.info = { status: 'active' };
  fake.runState = 'inmigrate';
  // The event overtakes the second half of the answer.
  fake.commands['query-status'] = () => {
    fake.enter('completed', 'running');
    return { status: 'inmigrate' };
  };
  await machine.refresh(1000);
  assert.deepEqual(statuses, ['active', 'completed'].slice(-statuses.length));
  assert.equal(machine.status, 'completed');
  assert.equal(machine.runState, 'running');
  assert.equal(machine.hasRun, true);
});

test('WatchedMachine takes a destination that listens again for what it is: paused', async (t) => {
  const [fake, machine] = await watched(t);
  fake.info = { status: 'postcopy-paused' };
  await machine.refresh(1000);
  fake.emit('MIGRATION', { status: 'setup' });
  await machine.refresh(1000);
  assert.equal(machine.status, 'postcopy-paused');
});

test('WatchedMachine asks again at once when an event tells of a change', async (t) => {
  const [fake, machine] = await watched(t);
  machine.watch();
  await once(machine, 'change');
  fake.info = { status: 'active', downtime: 3 };
  fake.enter('active');
  while (machine.info.downtime !== 3) await once(machine, 'change');
});

test('WatchedMachine asks nothing more of a monitor that owes an answer, and urgent commands get through', async (t) => {
  const [fake, machine] = await watched(t);
  fake.hangs = true;
  assert.equal(await machine.refresh(5), false);
  assert.equal(await machine.refresh(5), false);
  assert(machine.silentMs > 0);
  fake.commands['migrate-pause'] = () => {};
  await machine.execute('migrate-pause', {}, { isUrgent: true, timeoutMs: 1000 });
  assert.deepEqual(fake.calls, ['!migrate-pause {}']);
  assert.deepEqual(fake.unanswered, ['query-migrate']);
});

test('WatchedMachine connects again when its connection breaks, and knows when the process is gone', async (t) => {
  const [fake, machine] = await watched(t);
  machine.watch();
  await once(machine, 'change');
  fake.disconnect();
  fake.info = { status: 'completed' };
  while (machine.status !== 'completed') await once(machine, 'change');
  assert.equal(machine.isGone, false);
  fake.end();
  while (!machine.isGone) await once(machine, 'change');
  assert.equal(await machine.refresh(100), false);
});

test('WatchedMachine.connect() says which side is not there', async () => {
  await assert.rejects(
    WatchedMachine.connect('source', '/nowhere'),
    /^QmpConnectionError: Source: Cannot connect .* no such socket/,
  );
});
