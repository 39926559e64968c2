import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { QmpClient, QmpCommandError, QmpConnectionError } from './qmp-client.ts';

const GREETING =
  '{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}\r\n';

/** A monitor that a test plays: it greets, negotiates, and lets the test answer the rest. */
async function fakeMonitor(
  t: TestContext,
  answer: (request: { execute?: string; 'exec-oob'?: string; id: number }, socket: Socket) => void,
  greeting: string | undefined = GREETING,
): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'pc-'));
  const path = join(folder, 'qmp');
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on('error', () => {});
    if (greeting !== undefined) socket.write(greeting);
    socket.on('data', (chunk) => {
      for (const line of chunk.toString().trim().split('\n')) {
        const request = JSON.parse(line);
        if (request.execute === 'qmp_capabilities') socket.write(`{"return": {}, "id": ${request.id}}\r\n`);
        else answer(request, socket);
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
    rmSync(folder, { recursive: true });
  });
  return path;
}

const failsWith = (failure: string, text: RegExp) => (error: unknown) => {
  assert(error instanceof QmpConnectionError, String(error));
  assert.equal(error.failure, failure);
  assert.match(error.message, text);
  return true;
};

test('QmpClient.connect() greets, and knows the version and what the monitor can do', async (t) => {
  const client = await QmpClient.connect(await fakeMonitor(t, () => {}));
  assert.deepEqual(client.greeting, {
    version: { qemu: { micro: 22, minor: 2, major: 7 }, package: 'Debian' },
    hasOob: true,
  });
  client.close();
  client.close();
});

test('QmpClient.connect() says why there is no monitor', async () => {
  await assert.rejects(
    QmpClient.connect('/nowhere/qmp'),
    failsWith('refused', /unix:\/nowhere\/qmp: there is no such socket/),
  );
  await assert.rejects(
    QmpClient.connect('tcp:127.0.0.1:1'),
    failsWith('refused', /tcp:127.0.0.1:1: nobody listens/),
  );
  await assert.rejects(QmpClient.connect('tcp:x'), RangeError);
});

test('QmpClient.connect() gives up a monitor that does not greet, and says that another client may have it', async (t) => {
  const path = await fakeMonitor(t, () => {}, '');
  await assert.rejects(
    QmpClient.connect(path, { greetingTimeoutMs: 1000 }),
    failsWith('no-greeting', /did not greet within 1 s: another client holds it .* second -qmp/),
  );
});

test('QmpClient.connect() refuses what is no QMP server, and shows what it said', async (t) => {
  for (const [said, text] of [
    ["QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) ", /monitor for people \(-monitor\)/],
    ['SSH-2.0-OpenSSH\r\n', /it is no QMP server. It said: "SSH-2.0-OpenSSH/],
    ['{"return": {}}\r\n', /it is no QMP server/],
    ['{"QMP": {"version": {}}}\r\n', /it is no QMP server/],
  ] as const) {
    await assert.rejects(QmpClient.connect(await fakeMonitor(t, () => {}, said)), failsWith('not-qmp', text));
  }
});

test('QmpClient.connect() says when the monitor closes before it greets', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'pc-'));
  const server = createServer((socket) => socket.end());
  await new Promise<void>((resolve) => server.listen(join(folder, 'qmp'), resolve));
  t.after(() => {
    server.close();
    rmSync(folder, { recursive: true });
  });
  await assert.rejects(QmpClient.connect(join(folder, 'qmp')), failsWith('closed', /before it greeted/));
});

test('QmpClient.execute() matches answers to commands, in whatever pieces and layout they come', async (t) => {
  const path = await fakeMonitor(t, ({ id, execute }, socket) => {
    if (execute === 'a') return;
    socket.write(`{\n    "return": "b",\n    "id": ${id}\n}\n{"return": "a", "id"`);
    setTimeout(() => socket.write(`: ${id - 1}}`), 5);
  });
  const client = await QmpClient.connect(path);
  assert.deepEqual(await Promise.all([client.execute('a'), client.execute('b')]), ['a', 'b']);
  client.close();
});

test('QmpClient.execute() passes on a refusal, and marks an urgent command', async (t) => {
  const path = await fakeMonitor(t, (request, socket) => {
    const desc = request['exec-oob'] ?? request.execute;
    socket.write(`{"error": {"class": "CommandNotFound", "desc": "no ${desc}"}, "id": ${request.id}}\n`);
  });
  const client = await QmpClient.connect(path);
  await assert.rejects(client.execute('migrate-pause', {}, { isUrgent: true }), (error: unknown) => {
    assert(error instanceof QmpCommandError);
    assert.deepEqual(
      [error.command, error.errorClass, error.message],
      ['migrate-pause', 'CommandNotFound', 'no migrate-pause'],
    );
    return true;
  });
  client.close();
});

test('QmpClient.execute() has a time limit, and goes on after it', async (t) => {
  const path = await fakeMonitor(t, ({ id, execute }, socket) => {
    if (execute === 'fast') socket.write(`{"return": 1, "id": ${id - 1}}\n{"return": 2, "id": ${id}}\n`);
  });
  const client = await QmpClient.connect(path);
  await assert.rejects(
    client.execute('slow', {}, { timeoutMs: 10 }),
    failsWith('no-answer', /^slow: the monitor unix:.* has not answered within 0.01 s$/),
  );
  assert.equal(await client.execute('fast'), 2);
  client.close();
});

test('QmpClient ends what waits when the connection ends, whether by the peer or by bytes that are no JSON', async (t) => {
  for (const last of ['', 'rubbish\n']) {
    const path = await fakeMonitor(t, (_request, socket) =>
      last === '' ? socket.end() : socket.write(last),
    );
    const client = await QmpClient.connect(path);
    const event = client.waitForEvent('STOP');
    event.catch(() => {});
    await assert.rejects(client.execute('query-status'), failsWith('closed', /query-status: .* has closed/));
    await assert.rejects(event, failsWith('closed', /the event STOP: .* has closed/));
    assert(client.isClosed);
    await assert.rejects(client.execute('query-status'), failsWith('closed', /has closed/));
  }
});

test('QmpClient gives events to a callback, to who waits for one, and to an iteration', async (t) => {
  const path = await fakeMonitor(t, ({ id }, socket) => {
    socket.write('{"event": "STOP"}\n{"event": "MIGRATION", "data": {"status": "active"}}\n');
    socket.write(`{"event": "RESUME"}\n{"return": {}, "id": ${id}}\n`);
  });
  const heard: string[] = [];
  const client = await QmpClient.connect(path, { onEvent: ({ event }) => heard.push(event) });
  const events = client.events();
  const resume = client.waitForEvent('RESUME');
  const active = client.waitForEvent(({ data }) => data?.['status'] === 'active');
  await client.execute('x');
  assert.equal((await resume).event, 'RESUME');
  assert.equal((await active).event, 'MIGRATION');
  assert.deepEqual(heard, ['STOP', 'MIGRATION', 'RESUME']);
  await assert.rejects(client.waitForEvent('NEVER', 5), failsWith('no-answer', /the event NEVER/));
  client.close();
  const iterated: string[] = [];
  for await (const { event } of events) iterated.push(event);
  assert.deepEqual(iterated, heard);
});

test('QmpClient.connect() reaches a monitor by TCP', async (t) => {
  const server = createServer((socket) => {
    socket.write(GREETING);
    socket.on('data', (chunk) => socket.write(`{"return": {}, "id": ${JSON.parse(`${chunk}`).id}}\n`));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => server.close());
  const { port } = server.address() as AddressInfo;
  const client = await QmpClient.connect(`tcp:127.0.0.1:${port},server=on,wait=off`);
  assert.deepEqual(await client.execute('query-status'), {});
  client.close();
});

test('QmpClient takes an error for one whatever is in it', async (t) => {
  const errors = ['{"class":{"toString":1},"desc":{"valueOf":[]}}', 'null', '7', '[]'];
  const path = await fakeMonitor(t, ({ id }, socket) => {
    socket.write(`{"error": ${errors[id % errors.length]}, "id": ${id}}\n`);
  });
  const client = await QmpClient.connect(path);
  for (const _ of errors) {
    await assert.rejects(client.execute('query-status'), (error) => {
      assert.ok(error instanceof QmpCommandError);
      assert.match(error.message, /no reason given/);
      return true;
    });
  }
  client.close();
});
