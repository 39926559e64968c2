import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { FakeMachine } from './fake-machine.ts';
import { type SettingWishes, SideSettings } from './settings.ts';
import { WatchedMachine } from './watched-machine.ts';

async function settingsOf(t: TestContext): Promise<[FakeMachine, SideSettings]> {
  const fake = await FakeMachine.start(t);
  const machine = await WatchedMachine.connect('source', fake.path);
  t.after(() => machine.close());
  return [fake, await SideSettings.read(machine)];
}

const wishes = (more: Partial<SettingWishes>): SettingWishes => ({
  capabilities: [],
  parameters: [],
  ...more,
});

test('SideSettings sets what differs and concerns this side, and gives it back', async (t) => {
  const [fake, settings] = await settingsOf(t);
  const before = [{ ...fake.capabilities }, { ...fake.parameters }];
  const wanted = wishes({
    capabilities: [
      { name: 'events', value: true },
      { name: 'return-path', value: false },
      { name: 'unheard-of', value: true, isOptional: true },
      { name: 'postcopy-ram', value: true, side: 'destination' },
    ],
    parameters: [
      { name: 'max-bandwidth', value: { text: '2K' } },
      { name: 'downtime-limit', value: 300 },
      { name: 'tls-creds', value: { text: '17' } },
      { name: 'x-flag', value: { text: 'on' } },
      { name: 'never-set', value: { text: '5' }, side: 'source' },
    ],
  });
  settings.check(wanted);
  await settings.apply(wanted);
  assert.equal(settings.hasChanges, true);
  assert.deepEqual(fake.calls, [
    'migrate-set-capabilities {"capabilities":[{"capability":"events","state":true}]}',
    'migrate-set-parameters {"max-bandwidth":2048,"tls-creds":"17","x-flag":true,"never-set":5}',
  ]);
  assert.equal(settings.numberOf('max-bandwidth', wanted), 2048);
  assert.equal(settings.numberOf('downtime-limit', wishes({})), 300);
  assert.equal(settings.numberOf('tls-creds', wishes({})), undefined);

  assert.equal(await settings.restore(), undefined);
  assert.deepEqual([fake.capabilities, fake.parameters], [before[0], { ...before[1], 'never-set': 5 }]);
});

test('SideSettings.apply() takes the last of two wishes for one thing', async (t) => {
  const [fake, settings] = await settingsOf(t);
  await settings.apply(
    wishes({
      capabilities: [
        { name: 'events', value: true },
        { name: 'events', value: false },
      ],
    }),
  );
  assert.deepEqual(fake.calls, []);
  assert.equal(settings.hasChanges, false);
});

test('SideSettings.check() refuses a capability that is not there, and lists those that are', async (t) => {
  const [, settings] = await settingsOf(t);
  assert.throws(
    () => settings.check(wishes({ capabilities: [{ name: 'warp', value: true }] })),
    /The source has no capability "warp"; it has: events, postcopy-ram, return-path/,
  );
});

test('SideSettings.apply() says what the monitor refuses; what was set before that can be given back', async (t) => {
  const [fake, settings] = await settingsOf(t);
  fake.commands['migrate-set-parameters'] = () => {
    throw 'out of range';
  };
  const wanted = wishes({
    capabilities: [{ name: 'events', value: true }],
    parameters: [{ name: 'downtime-limit', value: 1 }],
  });
  await assert.rejects(
    settings.apply(wanted),
    /The source refuses the parameters downtime-limit: out of range/,
  );
  assert.equal(await settings.restore(), undefined);
  assert.equal(fake.capabilities['events'], false);
});

test('SideSettings refuses values of the wrong kind', async (t) => {
  const [, settings] = await settingsOf(t);
  for (const [name, text, why] of [
    ['max-bandwidth', 'fast', /"max-bandwidth" must be a whole number, K, M, G or T behind it, got "fast"/],
    ['max-bandwidth', '1.5M', /must be a whole number/],
    ['x-flag', 'yes', /"x-flag" must be on or off, got "yes"/],
  ] as const) {
    await assert.rejects(settings.apply(wishes({ parameters: [{ name, value: { text } }] })), why);
  }
});

test('SideSettings.restore() names what stays changed', async (t) => {
  const [fake, settings] = await settingsOf(t);
  await settings.apply(wishes({ capabilities: [{ name: 'events', value: true }] }));
  fake.commands['migrate-set-capabilities'] = () => {
    throw 'busy';
  };
  assert.match((await settings.restore()) ?? '', /Settings of the source stay changed \(events\): busy/);
});
