import assert from 'node:assert/strict';
import { PassThrough, Writable } from 'node:stream';
import { test } from 'node:test';
import { VmError } from '../vm/vm.ts';
import { FakeVm } from './fake-vm.ts';
import { MAX_UNREAD_BYTES, MAX_WAITING_REQUESTS, QmpSession } from './qmp.ts';
import { watchEvents } from './qmp-events.ts';

/** What a client gets that sends these chunks and then no more. */
async function converse(
  chunks: (string | Uint8Array)[],
  vm = new FakeVm(),
  quit = () => {},
): Promise<Record<string, unknown>[]> {
  const input = new PassThrough();
  const output = new PassThrough();
  const session = new QmpSession({ vm, version: '1.2.3', quit, interrupt() {} }, { input, output });
  const unwatch = watchEvents(vm, (event) => session.sendEvent(event));
  for (const chunk of chunks) input.write(chunk);
  input.end();
  await session.ended;
  unwatch();
  const text = String(output.read());
  assert.ok(text.endsWith('\n'));
  return text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

const GREETING = {
  QMP: {
    version: { qemu: { major: 1, minor: 2, micro: 3 }, package: 'postcopy 1.2.3' },
    capabilities: ['oob'],
  },
};
const NEGOTIATE = '{"execute":"qmp_capabilities"}\n';
/** The replies after greeting and negotiation. */
const answers = async (chunks: (string | Uint8Array)[], vm?: FakeVm) =>
  (await converse([NEGOTIATE, ...chunks], vm)).slice(2);

const error = (desc: string, errorClass = 'GenericError') => ({ error: { class: errorClass, desc } });

test('QmpSession greets, negotiates, and then takes commands', async () => {
  const replies = await converse([
    '{"execute":"query-status","id":1}',
    '{"execute":"qmp_capabilities","arguments":{"enable":["oob","x"]}}',
    '{"execute":"qmp_capabilities","arguments":{"enable":1}}',
    '{"execute":"qmp_capabilities","id":"a"}',
    '{"execute":"qmp_capabilities"}',
    '{"execute":"query-status"}',
  ]);
  assert.deepEqual(replies, [
    GREETING,
    { ...error("Expecting capabilities negotiation with 'qmp_capabilities'", 'CommandNotFound'), id: 1 },
    error("Capability 'x' not available"),
    error("Invalid parameter type for 'enable', expected: array"),
    { return: {}, id: 'a' },
    error('Capabilities negotiation is already complete, command ignored', 'CommandNotFound'),
    { return: { status: 'running', singlestep: false, running: true } },
  ]);
});

test('QmpSession echoes any id, also with an error', async () => {
  const replies = await answers(['{"execute":"foo","id":{"x":[1,2.5,"é"]}}{"execute":"cont","id":null}']);
  assert.deepEqual(replies, [
    { ...error('The command foo has not been found', 'CommandNotFound'), id: { x: [1, 2.5, 'é'] } },
    { return: {}, id: null },
  ]);
});

test('QmpSession refuses what is no request, and goes on', async () => {
  const refused: [text: string, desc: string][] = [
    ['[1]', 'QMP input must be a JSON object'],
    ['{"foo":1}', "QMP input member 'foo' is unexpected"],
    ['{"exec-oob":"stop"}', "QMP input member 'exec-oob' is unexpected"],
    ['{}', "QMP input lacks member 'execute'"],
    ['{"execute":1}', "QMP input member 'execute' must be a string"],
    ['{"execute":"stop","arguments":[]}', "QMP input member 'arguments' must be an object"],
    ['{"execute":"migrate"}', "Parameter 'uri' is missing"],
    ['garbage\n', 'JSON parse error, expecting an object'],
  ];
  const vm = new FakeVm();
  for (const [text, desc] of refused) {
    const [first, second] = await answers([text, '{"execute":"query-migrate","id":2}'], vm);
    assert.deepEqual(first, error(desc), text);
    assert.deepEqual(second, { return: {}, id: 2 }, text);
  }
  assert.deepEqual(vm.calls, []);
});

test('QmpSession lets urgent commands overtake, where the client has enabled it', async () => {
  const vm = new FakeVm();
  let finish: () => void = () => {};
  vm.stop = () =>
    new Promise((resolve) => {
      finish = resolve;
    });
  const recover = vm.migrateRecover.bind(vm);
  vm.migrateRecover = (uri) => {
    setImmediate(() => finish());
    return recover(uri);
  };
  const replies = await converse(
    [
      '{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}',
      '{"execute":"stop","id":1}{"exec-oob":"migrate-recover","arguments":{"uri":"tcp:h:1"},"id":2}',
      '{"exec-oob":"cont","id":3}{"execute":"query-migrate","id":4}',
      '{"exec-oob":"migrate-pause","execute":"stop","id":5}',
    ],
    vm,
  );
  const [stopped, recovered] = [1, 2].map((id) => replies.findIndex((reply) => reply['id'] === id));
  assert.ok((recovered as number) < (stopped as number), JSON.stringify(replies));
  assert.deepEqual(
    replies.find(({ id }) => id === 3),
    { ...error('The command cont does not support OOB'), id: 3 },
  );
  assert.deepEqual(
    replies.find(({ id }) => id === 4),
    { return: {}, id: 4 },
  );
  assert.match(JSON.stringify(replies.find(({ id }) => id === 5)), /cannot both be there/);
  assert.deepEqual(vm.calls, ['migrateRecover tcp:h:1']);
});

test('QmpSession answers in order, however the bytes are cut', async () => {
  const stream = Buffer.from('{"execute":"query-migrate","id":"é"}{"execute":"query-migrate","id":2}\n');
  const bytes = Array.from(stream, (byte) => Uint8Array.of(byte));
  assert.deepEqual(await answers(bytes), [
    { return: {}, id: 'é' },
    { return: {}, id: 2 },
  ]);
});

test('QmpSession gives the reason when the machine refuses', async () => {
  const vm = new FakeVm();
  vm.failure = new VmError("There's a migration process in progress");
  assert.deepEqual(await answers(['{"execute":"migrate","arguments":{"uri":"tcp:h:1"}}'], vm), [
    error("There's a migration process in progress"),
  ]);
});

test('QmpSession lets the program quit once the reply is out', async () => {
  let quits = 0;
  const replies = await converse([NEGOTIATE, '{"execute":"quit"}'], new FakeVm(), () => {
    quits++;
  });
  assert.deepEqual(replies.slice(2), [{ return: {} }]);
  assert.equal(quits, 1);
});

test('events about the guest come with a timestamp, those about migrations with the capability', async () => {
  const vm = new FakeVm();
  const migration = () => {
    vm.emit('migration', 'setup');
    vm.emit('migrationPass', 1);
  };
  const input = new PassThrough();
  const output = new PassThrough();
  const session = new QmpSession({ vm, version: '1.2.3', quit() {}, interrupt() {} }, { input, output });
  const events: unknown[] = [];
  const unwatch = watchEvents(vm, ({ timestamp, ...rest }) => {
    assert.ok(timestamp.seconds > 1.7e9);
    assert.ok(Number.isInteger(timestamp.seconds));
    assert.ok(Number.isInteger(timestamp.microseconds) && timestamp.microseconds < 1e6);
    events.push(rest);
  });
  migration();
  vm.setRunState('finish-migrate');
  vm.setRunState('postmigrate');
  vm.capabilities = { ...vm.capabilities, events: true };
  migration();
  vm.setRunState('running');
  vm.setRunState('shutdown');
  unwatch();
  migration();
  assert.deepEqual(events, [
    { event: 'STOP' },
    { event: 'MIGRATION', data: { status: 'setup' } },
    { event: 'MIGRATION_PASS', data: { pass: 1 } },
    { event: 'RESUME' },
    { event: 'SHUTDOWN', data: { guest: false, reason: 'host-error' } },
    { event: 'STOP' },
  ]);
  assert.equal(vm.listenerCount('runState'), 0);
  session.sendEvent({ event: 'STOP', timestamp: { seconds: 1, microseconds: 2 } });
  input.end();
  await session.ended;
  assert.deepEqual(JSON.parse(String(output.read())), GREETING, 'no event before the negotiation');
});

test('QmpSession cuts off a client that lets events pile up', async () => {
  const input = new PassThrough();
  let isStuck = false;
  const output = new Writable({
    write(_chunk, _encoding, done) {
      if (!isStuck) done();
    },
  });
  const session = new QmpSession(
    { vm: new FakeVm(), version: '1.2.3', quit() {}, interrupt() {} },
    { input, output },
  );
  input.end(NEGOTIATE);
  await session.ended;
  isStuck = true;
  const event = {
    event: 'X',
    data: { text: 'x'.repeat(2 ** 20) },
    timestamp: { seconds: 1, microseconds: 0 },
  };
  let sent = 0;
  while (!output.destroyed && sent < 100) {
    session.sendEvent(event);
    sent++;
  }
  assert.equal(sent, MAX_UNREAD_BYTES / 2 ** 20 + 1);
  session.sendEvent(event);
});

test('QmpSession names a capability that is none, whatever that is', async () => {
  const [, reply] = await converse([
    '{"execute":"qmp_capabilities","arguments":{"enable":[{"toString":1}]}}\n',
  ]);
  assert.deepEqual(reply, { error: { class: 'GenericError', desc: "Capability 'object' not available" } });
});

test('QmpSession reads on behind so many requests that wait, and no more', async () => {
  for (const waiting of [MAX_WAITING_REQUESTS - 1, MAX_WAITING_REQUESTS]) {
    const vm = new FakeVm();
    const finish: (() => void)[] = [];
    vm.stop = () => new Promise((resolve) => finish.push(resolve));
    const ended = converse(
      [
        '{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}',
        '{"execute":"stop"}'.repeat(waiting),
        '{"exec-oob":"migrate-recover","arguments":{"uri":"tcp:h:1"}}',
      ],
      vm,
    );
    while (finish.length === 0) await new Promise((resolve) => setImmediate(resolve));
    // All that can happen before the first stop is over has happened after these.
    for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(vm.calls, waiting < MAX_WAITING_REQUESTS ? ['migrateRecover tcp:h:1'] : []);
    for (let done = 0; done < waiting; done++) {
      while (finish.length <= done) await new Promise((resolve) => setImmediate(resolve));
      finish[done]?.();
    }
    await ended;
    assert.deepEqual(vm.calls, ['migrateRecover tcp:h:1']);
  }
});
