import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { type TestContext, test } from 'node:test';
import { FakeVm } from './fake-vm.ts';
import { MAX_CLIENTS, MonitorServers } from './server.ts';

function setUp(t: TestContext) {
  const folder = mkdtempSync(join(tmpdir(), 'postcopy-monitor-'));
  const path = join(folder, 'socket');
  const vm = new FakeVm();
  const quits: number[] = [];
  const monitors = new MonitorServers({ vm, version: '1.2.3', quit: () => quits.push(1), interrupt() {} });
  t.after(async () => {
    await monitors.close('host-signal');
    rmSync(folder, { recursive: true });
  });
  return { path, vm, monitors, quits };
}

/** Sends a text, and reads until the text so far ends the wait or the server hangs up. */
function exchange(socket: Socket, text: string, isEnough: (received: string) => boolean): Promise<string> {
  return new Promise((resolve, reject) => {
    let received = '';
    const onData = (chunk: Buffer) => {
      received += chunk;
      if (isEnough(received)) finish();
    };
    const finish = () => {
      socket.off('data', onData);
      resolve(received);
    };
    socket.on('data', onData);
    socket.once('end', finish);
    socket.once('close', finish);
    socket.once('error', reject);
    if (text !== '') socket.write(text);
  });
}

const client = (t: TestContext, path: string): Socket => {
  const socket = connect({ path, allowHalfOpen: true });
  t.after(() => socket.destroy());
  return socket;
};

test('MonitorServers serve the human monitor at a socket of the owner alone', async (t) => {
  const { path, monitors } = setUp(t);
  await monitors.serve('human', { kind: 'unix', path });
  assert.equal(statSync(path).mode & 0o777, 0o700);
  const socket = client(t, path);
  const text = await exchange(
    socket,
    'info status\nfoo\n',
    (received) => received.split('(postcopy) ').length > 3,
  );
  assert.equal(
    text,
    "postcopy 1.2.3 monitor - type 'help' for more information\n" +
      "(postcopy) VM status: running\n(postcopy) unknown command: 'foo'; try 'help'\n(postcopy) ",
  );
});

test('MonitorServers answer a client that has sent its last byte already', async (t) => {
  const { path, monitors } = setUp(t);
  await monitors.serve('human', { kind: 'unix', path });
  const socket = client(t, path);
  const received = exchange(socket, 'info status', () => false);
  socket.end();
  assert.match(await received, /\(postcopy\) VM status: running\n$/);
});

test('MonitorServers serve several QMP clients, and tell all why the program ends', async (t) => {
  const { path, monitors, quits } = setUp(t);
  await monitors.serve('qmp', { kind: 'unix', path });
  const sockets = [client(t, path), client(t, path)];
  for (const socket of sockets) {
    await exchange(socket, '{"execute":"qmp_capabilities"}', (received) => received.includes('"return"'));
  }
  const others = exchange(sockets[1]!, '', () => false);
  const reply = await exchange(sockets[0]!, '{"execute":"quit"}', (received) =>
    received.includes('"return"'),
  );
  assert.equal(reply, '{"return":{}}\n');
  assert.deepEqual(quits, [1]);
  await monitors.close('host-qmp-quit');
  assert.match(await others, /"event":"SHUTDOWN","data":\{"guest":false,"reason":"host-qmp-quit"\}\}\n$/);
  assert.equal(existsSync(path), false, 'the socket file is removed');
});

test('MonitorServers serve standard streams, whose end is not the end of the machine', async (t) => {
  const { monitors, quits } = setUp(t);
  const streams = { input: new PassThrough(), output: new PassThrough() };
  await monitors.serve('human', { kind: 'stdio' }, streams);
  await monitors.serve('qmp', { kind: 'none' }, streams);
  streams.input.end('info version\n');
  let text = '';
  while (!text.endsWith('1.2.3\n(postcopy) ')) {
    text += streams.output.read() ?? '';
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.deepEqual(quits, []);
});

test('MonitorServers refuse a path in use, and take over one that nobody serves', async (t) => {
  const { path, monitors } = setUp(t);
  const target = { kind: 'unix', path } as const;
  writeFileSync(path, 'precious');
  await assert.rejects(monitors.serve('qmp', target), {
    message: `Cannot listen at "${path}": a file that is no socket is there`,
  });
  rmSync(path);

  const other = createServer((socket) => socket.destroy()).listen(path);
  t.after(() => other.close());
  await new Promise((resolve) => other.once('listening', resolve));
  await assert.rejects(monitors.serve('qmp', target), {
    message: `Cannot listen at "${path}": another process serves it`,
  });
  await assert.rejects(
    monitors.serve('qmp', { kind: 'unix', path: `${path}/x` }),
    /^Error: Cannot listen at ".*\/x": /,
  );
});

test('MonitorServers turn away clients above the limit', async (t) => {
  const { path, monitors } = setUp(t);
  await monitors.serve('qmp', { kind: 'unix', path });
  for (let count = 0; count < MAX_CLIENTS; count++) {
    await exchange(client(t, path), '', (received) => received.endsWith('\n'));
  }
  assert.equal(await exchange(client(t, path), '', () => false), '');
});
