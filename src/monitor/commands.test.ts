import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CAPABILITIES } from '../migration/capabilities.ts';
import { DEFAULT_PARAMETERS, PARAMETER_NAMES } from '../migration/parameters.ts';
import { COMMANDS } from './commands.ts';
import { FakeVm } from './fake-vm.ts';
import { usage } from './help.ts';
import { createContext } from './session.ts';

/** Commands of both monitors. A name may be `-` at one of them. */
const TABLE = `
migrate                        migrate [-d] [-r] uri
migrate_cancel                 migrate_cancel
migrate-start-postcopy         migrate_start_postcopy
migrate-incoming               migrate_incoming uri
migrate-recover                migrate_recover uri
migrate-pause                  migrate_pause
query-migrate                  info migrate
migrate-set-capabilities       migrate_set_capability capability on|off
migrate-set-parameters         migrate_set_parameter parameter value
query-migrate-capabilities     info migrate_capabilities
query-migrate-parameters       info migrate_parameters
object-add                     object_add properties
object-del                     object_del id
stop                           stop|s
cont                           cont|c
query-status                   info status
quit                           quit|q
pmemsave                       pmemsave val size filename
x-query-ramblock               info ramblock
x-query-migrate-bitmap         info migrate_bitmap block
trace-event-set-state          trace-event name on|off
trace-event-get-state          -
-                              info trace-events [name]
qmp_capabilities               -
query-version                  info version
query-commands                 -
qom-get                        -
human-monitor-command          -
-                              help|? [command]
`;

test('COMMANDS are those of QEMU, by both names', () => {
  const shown = COMMANDS.map(({ qmp, hmp }) =>
    `${(qmp ?? '-').padEnd(31)}${hmp === undefined ? '-' : usage(hmp)}`.trimEnd(),
  );
  assert.deepEqual(shown, TABLE.trim().split('\n'));
});

test('COMMANDS have names of their own, and a line of help', () => {
  const qmpNames = COMMANDS.flatMap(({ qmp }) => qmp ?? []);
  const hmpNames = COMMANDS.flatMap(({ hmp }) => [hmp?.name ?? [], hmp?.alias ?? []]).flat();
  assert.equal(new Set(qmpNames).size, qmpNames.length);
  assert.equal(new Set(hmpNames).size, hmpNames.length);
  for (const { help } of COMMANDS) assert.match(help, /^[a-z][^\n]*[^.\n]$/);
});

const vm = new FakeVm();
const { context } = createContext({ vm, version: '1.2.3', quit() {}, interrupt() {} });
const execute = (name: string, input: object = {}) => {
  const command = COMMANDS.find(({ qmp }) => qmp === name);
  assert.ok(command, name);
  vm.calls.length = 0;
  return command.execute(context, input);
};

test('migrate at QMP does not wait, with or without detach', async () => {
  assert.deepEqual(await execute('migrate', { uri: 'tcp:h:1' }), {});
  assert.deepEqual(vm.calls, ['migrate tcp:h:1']);
  assert.deepEqual(await execute('migrate', { uri: 'tcp:h:1', detach: false }), {});
});

test('migrate goes on with a paused postcopy if told so, and migrate-recover waits for it', async () => {
  assert.deepEqual(await execute('migrate', { uri: 'tcp:h:1', resume: true }), {});
  assert.deepEqual(vm.calls, ['migrate -r tcp:h:1']);
  assert.deepEqual(await execute('migrate', { uri: 'tcp:h:1', resume: false }), {});
  assert.deepEqual(vm.calls, ['migrate tcp:h:1']);
  assert.deepEqual(await execute('migrate-recover', { uri: 'tcp:h:2' }), {});
  assert.deepEqual(vm.calls, ['migrateRecover tcp:h:2']);
  await assert.rejects(execute('migrate-recover'), /'uri' is missing/);
});

test('commands without arguments reach the machine', async () => {
  for (const [name, call] of [
    ['migrate_cancel', 'migrateCancel'],
    ['migrate-pause', 'migratePause'],
    ['stop', 'stop'],
    ['cont', 'cont'],
  ] as const) {
    assert.deepEqual(await execute(name), {});
    assert.deepEqual(vm.calls, [call]);
  }
  await assert.rejects(execute('migrate-start-postcopy'), { name: 'VmError' });
});

test('migrate-set-capabilities takes several, and the older name', async () => {
  await execute('migrate-set-capabilities', {
    capabilities: [
      { capability: 'x-postcopy-ram', state: true },
      { capability: 'events', state: false },
    ],
  });
  assert.deepEqual(vm.calls, ['setCapabilities {"postcopy-ram":true,"events":false}']);
  const states = (await execute('query-migrate-capabilities')) as { capability: string; state: boolean }[];
  assert.deepEqual(
    states.filter(({ capability }) => ['events', 'postcopy-ram'].includes(capability)),
    [
      { capability: 'events', state: false },
      { capability: 'postcopy-ram', state: true },
    ],
  );
});

test('migrate-set-parameters takes several; nothing is set if one is wrong', async () => {
  await execute('migrate-set-parameters', { 'downtime-limit': 50, 'max-bandwidth': 0 });
  assert.deepEqual(vm.calls, ['setParameters {"downtime-limit":50,"max-bandwidth":0}']);
  await assert.rejects(execute('migrate-set-parameters', { 'downtime-limit': 60, 'max-bandwidth': -1 }), {
    name: 'RangeError',
  });
  assert.deepEqual(await execute('query-migrate-parameters'), {
    ...DEFAULT_PARAMETERS,
    'max-bandwidth': 0,
    'downtime-limit': 50,
  });
});

test('object-add and object-del hand on what is asked for; names of objects are parameters', async () => {
  await execute('object-add', { 'qom-type': 'authz-simple', id: 'a', identity: 'CN=x' });
  assert.deepEqual(vm.calls, ['addObject {"qom-type":"authz-simple","id":"a","identity":"CN=x"}']);
  await execute('object-del', { id: 'a' });
  assert.deepEqual(vm.calls, ['removeObject a']);
  await execute('migrate-set-parameters', { 'tls-creds': 'a', 'tls-authz': null });
  assert.deepEqual(vm.calls, ['setParameters {"tls-creds":"a","tls-authz":""}']);
  await assert.rejects(execute('object-add', { id: 'a' }), { message: "Parameter 'qom-type' is missing" });
});

test('query commands answer in the shape of QEMU', async () => {
  vm.setRunState('postmigrate');
  assert.deepEqual(await execute('query-status'), {
    status: 'postmigrate',
    singlestep: false,
    running: false,
  });
  assert.deepEqual(await execute('query-version'), {
    qemu: { major: 1, minor: 2, micro: 3 },
    package: 'postcopy 1.2.3',
  });
  assert.equal(await execute('qom-get', { path: '/machine', property: 'type' }), 'fake-machine');
  await assert.rejects(execute('qom-get', { path: '/x', property: 'type' }), /Device '\/x' not found/);
  await assert.rejects(execute('qom-get', { path: '/machine', property: 'x' }), /'fake-machine.x' not found/);
  vm.info = { status: 'active' };
  assert.deepEqual(await execute('query-migrate'), { status: 'active' });
  const names = (await execute('query-commands')) as { name: string }[];
  assert.ok(names.some(({ name }) => name === 'query-commands'));
  assert.deepEqual(await execute('x-query-migrate-bitmap', { block: 'pc.ram' }), {
    'human-readable-text': 'pc.ram\n.1.1\n',
  });
  assert.deepEqual(
    await execute('human-monitor-command', { 'command-line': 'info status' }),
    'VM status: paused (postmigrate)\r\n',
  );
});

test('trace commands switch and show trace points', async () => {
  await execute('trace-event-set-state', { name: 'migrate_*', enable: true });
  await execute('trace-event-set-state', { name: 'migrate_pending', enable: false });
  assert.deepEqual(await execute('trace-event-get-state', { name: 'migrate_*' }), [
    { name: 'migrate_set_state', state: 'enabled' },
    { name: 'migrate_pending', state: 'disabled' },
  ]);
});

test('arguments that do not fit are refused in the words of QEMU', async () => {
  const refused: [name: string, input: object, desc: string][] = [
    ['stop', { x: 1 }, "Parameter 'x' is unexpected"],
    ['migrate', {}, "Parameter 'uri' is missing"],
    ['migrate', { uri: 1 }, "Invalid parameter type for 'uri', expected: string"],
    [
      'migrate-set-capabilities',
      { capabilities: {} },
      "Invalid parameter type for 'capabilities', expected: array",
    ],
    [
      'migrate-set-capabilities',
      { capabilities: [1] },
      "Invalid parameter type for 'capabilities[0]', expected: object",
    ],
    [
      'migrate-set-capabilities',
      { capabilities: [{ capability: 'events', state: 1 }] },
      "Invalid parameter type for 'capabilities[0].state', expected: boolean",
    ],
    [
      'migrate-set-capabilities',
      { capabilities: [{ capability: 'nope', state: true }] },
      `No capability is named "nope"; there are: ${Object.keys(CAPABILITIES).join(', ')}`,
    ],
    [
      'migrate-set-parameters',
      { 'downtime-limit': 'x' },
      'Parameter "downtime-limit" must be a whole number of ms from 0 to 2000000, got x',
    ],
    [
      'migrate-set-parameters',
      { 'downtime-limit': 1.5 },
      'Parameter "downtime-limit" must be a whole number of ms from 0 to 2000000, got 1.5',
    ],
    [
      'migrate-set-parameters',
      { nope: 1 },
      `No parameter is named "nope"; there are: ${PARAMETER_NAMES.join(', ')}`,
    ],
    ['pmemsave', { val: -1, size: 1, filename: 'f' }, "Parameter 'val' must not be negative"],
    ['pmemsave', { val: 0, size: 0.5, filename: 'f' }, "Parameter 'size' must be a whole number below 2^53"],
    ['x-query-migrate-bitmap', { block: 'x' }, 'No RAM block is named "x"; there are: pc.ram, vga.vram'],
    ['trace-event-set-state', { name: 'nope', enable: true }, 'unknown event "nope"'],
    ['trace-event-get-state', { name: 'nope*' }, 'unknown event "nope*"'],
    ['qmp_capabilities', {}, 'Capabilities negotiation is already complete, command ignored'],
  ];
  for (const [name, input, message] of refused) {
    await assert.rejects(execute(name, input), { message }, `${name} ${JSON.stringify(input)}`);
    assert.deepEqual(vm.calls, [], name);
  }
});
