import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { FakeMachine } from './fake-machine.ts';
import { MigrationDriver, type MigrationPlan } from './migration-driver.ts';

interface Rig {
  readonly source: FakeMachine;
  readonly destination: FakeMachine;
  readonly lines: string[];
  /** Does something once the driver has said a line like this. */
  whenSaid(line: RegExp, act: () => void): void;
  driver(plan?: Partial<MigrationPlan>): MigrationDriver;
}

const RAM = { transferred: 100, remaining: 50, total: 100, 'dirty-sync-count': 1 };

/** A source with a guest and a destination that waits; `migrate` makes both active and no more. */
async function rig(t: TestContext): Promise<Rig> {
  const source = await FakeMachine.start(t);
  const destination = await FakeMachine.start(t);
  destination.runState = 'inmigrate';
  destination.commands['migrate-incoming'] = ({ uri }) => {
    destination.info = { 'socket-address': [{ type: 'unix', path: String(uri).slice('unix:'.length) }] };
  };
  source.commands['migrate'] = () => {
    source.info = { ram: RAM };
    source.enter('setup');
    source.enter('active');
    destination.enter('active');
  };
  source.commands['migrate_cancel'] = () => {
    source.enter('cancelling');
    source.enter('cancelled', 'running');
  };
  const lines: string[] = [];
  const awaited: { readonly line: RegExp; readonly act: () => void }[] = [];
  const onLine = (who: string, text: string) => {
    lines.push(`${who}: ${text}`);
    const index = awaited.findIndex(({ line }) => line.test(`${who}: ${text}`));
    if (index >= 0) setImmediate(awaited.splice(index, 1)[0]!.act);
  };
  const listener = { onLine, onProgress() {} };
  return {
    source,
    destination,
    lines,
    whenSaid: (line, act) => awaited.push({ line, act }),
    driver: (plan = {}) =>
      new MigrationDriver(
        {
          source: source.path,
          destination: destination.path,
          joins: false,
          postcopy: { kind: 'never' },
          settings: { capabilities: [], parameters: [] },
          keepsSettings: false,
          recoverForMs: 0,
          monitorTimeoutMs: 1000,
          ...plan,
        },
        listener,
      ),
  };
}

/** The guest goes to the destination. */
function complete({ source, destination }: Rig): void {
  destination.enter('completed', 'running');
  source.enter('completed', 'postmigrate');
}

/** Does something when the source becomes active. */
function whenActive({ source }: Rig, act: () => void): void {
  const migrate = source.commands['migrate'];
  source.commands['migrate'] = (args) => {
    migrate?.(args);
    setTimeout(act, 20);
  };
}

test('MigrationDriver sets, listens, migrates and gives settings back', async (t) => {
  const here = await rig(t);
  whenActive(here, () => complete(here));
  const report = await here.driver().run();
  assert.equal(report.outcome, 'completed');
  assert.equal(report.isGuestRunning, true);
  assert.equal(report.transferredBytes, 100);
  const names = (calls: readonly string[]) => calls.map((call) => call.split(' ')[0]);
  assert.deepEqual(names(here.source.calls), [
    'migrate-set-capabilities',
    'migrate',
    'migrate-set-capabilities',
  ]);
  assert.deepEqual(names(here.destination.calls), [
    'migrate-set-capabilities',
    'migrate-incoming',
    'migrate-set-capabilities',
  ]);
  assert.equal(here.source.capabilities['return-path'], false);
  assert.deepEqual(
    report.timeline.filter(({ side }) => side === 'source').map(({ status }) => status),
    ['setup', 'active', 'completed'],
  );
});

test('MigrationDriver keeps settings if it is told to', async (t) => {
  const here = await rig(t);
  whenActive(here, () => complete(here));
  await here.driver({ keepsSettings: true }).run();
  assert.equal(here.source.capabilities['return-path'], true);
});

test('MigrationDriver gives settings back when the source refuses to migrate, and says where the destination listens', async (t) => {
  const here = await rig(t);
  here.source.commands['migrate'] = () => {
    throw 'a device cannot be moved';
  };
  const report = await here.driver({ uri: 'unix:/x' }).run();
  assert.deepEqual([report.outcome, report.exitCode], ['not-started', 1]);
  assert.equal(report.text, 'The source refuses to migrate: a device cannot be moved');
  assert.match(report.notes.join(), /still listens at unix:\/x/);
  assert.equal(here.source.capabilities['return-path'], false);
  assert.equal(here.destination.capabilities['return-path'], false);
});

test('MigrationDriver asks for the switch after a time, once, and goes on if that is refused', async (t) => {
  const here = await rig(t);
  here.source.commands['migrate-start-postcopy'] = () => {
    setTimeout(() => complete(here), 300);
    throw 'not now';
  };
  const report = await here.driver({ postcopy: { kind: 'after', afterMs: 10 } }).run();
  assert.equal(report.outcome, 'completed');
  assert.match(report.notes.join(), /switch to postcopy was refused: not now/);
  assert.equal(here.source.calls.filter((call) => call.startsWith('migrate-start-postcopy')).length, 1);
  assert.deepEqual(
    [here.source, here.destination].map(({ capabilities }) => capabilities['postcopy-ram']),
    [false, false],
  );
});

test('MigrationDriver.interrupt() before the start changes nothing', async (t) => {
  const here = await rig(t);
  const driver = here.driver();
  driver.interrupt();
  const report = await driver.run();
  assert.deepEqual([report.outcome, report.exitCode, report.guestAt], ['cancelled', 3, 'source']);
  assert.deepEqual([...here.source.calls, ...here.destination.calls], []);
});

test('MigrationDriver.interrupt() cancels in precopy, and looks whether the guest runs', async (t) => {
  const here = await rig(t);
  const driver = here.driver();
  whenActive(here, () => driver.interrupt());
  const report = await driver.run();
  assert.deepEqual([report.outcome, report.exitCode, report.isGuestRunning], ['cancelled', 3, true]);
});

test('MigrationDriver.interrupt() never cancels what may be in postcopy, whatever the source said last', async (t) => {
  const here = await rig(t);
  const driver = here.driver();
  whenActive(here, () => {
    // No event tells of it: the driver must ask.
    here.source.info = { ...here.source.info, status: 'postcopy-active' };
    here.source.runState = 'finish-migrate';
    here.whenSaid(/cannot be cancelled/, () => driver.interrupt());
    driver.interrupt();
  });
  const report = await driver.run();
  assert.deepEqual([report.outcome, report.exitCode], ['interrupted', 5]);
  assert(!here.source.calls.some((call) => call.startsWith('migrate_cancel')));
  assert.match(here.lines.join('\n'), /cannot be cancelled: the guest has left the source/);
});

test('MigrationDriver lets a guest go on at the source only if its destination has ended without it', async (t) => {
  const here = await rig(t);
  here.source.commands['cont'] = () => {
    here.source.runState = 'running';
  };
  whenActive(here, () => {
    here.destination.end();
    here.source.enter('failed', 'paused');
  });
  const report = await here.driver().run();
  assert.deepEqual([report.outcome, report.guestAt, report.isGuestRunning], ['failed', 'source', true]);
  assert.match(report.text, /was continued$/);
  assert(here.source.calls.includes('cont {}'));
});

test('MigrationDriver never lets a guest go on at the source that was seen at the destination', async (t) => {
  const here = await rig(t);
  whenActive(here, () => {
    here.destination.enter('active', 'running');
    setTimeout(() => {
      here.destination.end();
      here.source.enter('failed', 'paused');
    }, 100);
  });
  const report = await here.driver().run();
  assert.deepEqual([report.outcome, report.exitCode], ['unknown', 6]);
  assert(!here.source.calls.some((call) => call.startsWith('cont')));
});

test('MigrationDriver goes on when a monitor breaks its connection and takes a new one', async (t) => {
  const here = await rig(t);
  whenActive(here, () => {
    here.source.disconnect();
    here.destination.disconnect();
    setTimeout(() => complete(here), 100);
  });
  const report = await here.driver().run();
  assert.equal(report.outcome, 'completed');
});

test('MigrationDriver gives up a source that does not answer, and says what is known', async (t) => {
  const here = await rig(t);
  whenActive(here, () => {
    here.source.hangs = true;
  });
  const report = await here.driver().run();
  assert.deepEqual([report.outcome, report.exitCode, report.source?.monitor], ['unknown', 6, 'no-answer']);
  assert.match(report.text, /Source: it does not answer; when it last did: migration active/);
});

test('MigrationDriver reports a monitor that is not there', async (t) => {
  const here = await rig(t);
  here.destination.end();
  const report = await here.driver().run();
  assert.deepEqual([report.outcome, report.exitCode, report.guestAt], ['not-started', 1, 'unknown']);
  assert.match(report.text, /^Destination: Cannot connect/);
});

test('MigrationDriver joins a migration that is under way, changes no settings, and sees it to its end', async (t) => {
  const here = await rig(t);
  here.source.info = { status: 'active', ram: RAM, 'total-time': 60_000 };
  here.destination.info = { status: 'active' };
  here.whenSaid(/^destination: active/, () => complete(here));
  const report = await here.driver({ joins: true }).run();
  assert.equal(report.outcome, 'completed');
  assert.deepEqual([...here.source.calls, ...here.destination.calls], []);
  assert((report.timeline[0]?.atMs ?? 0) >= 60_000);
});

test('MigrationDriver that has joined late lets no guest go on whose past it does not know', async (t) => {
  const here = await rig(t);
  here.source.info = { status: 'device' };
  here.source.runState = 'finish-migrate';
  here.destination.info = { status: 'active' };
  here.whenSaid(/^destination: active/, () => {
    here.destination.end();
    here.source.enter('failed', 'paused');
  });
  const report = await here.driver({ joins: true }).run();
  assert.deepEqual([report.outcome, report.exitCode], ['unknown', 6]);
  assert.deepEqual(here.source.calls, []);
});

test('MigrationDriver has nothing to join when no migration is under way', async (t) => {
  const here = await rig(t);
  const report = await here.driver({ joins: true }).run();
  assert.deepEqual([report.outcome, report.exitCode, report.guestAt], ['not-started', 1, 'unknown']);
});
