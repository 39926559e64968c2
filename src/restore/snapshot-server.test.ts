import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { atEnd } from '../../test/support/cleanup.ts';
import { tempFolder } from '../../test/support/temp-folder.ts';
import { writeSnapshot } from '../snapshot/example-file.ts';
import { openSnapshot } from '../snapshot/open-snapshot.ts';
import { HANDOVER_TIMEOUT_MS, SnapshotServer } from './snapshot-server.ts';

/** The first bytes that a client gets; none if it is refused. */
function firstBytes(path: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.on('error', reject);
    socket.on('close', () => resolve(''));
    socket.once('data', (bytes) => {
      resolve(bytes.toString('latin1', 0, 4));
      socket.destroy();
    });
  });
}

test('SnapshotServer serves the next client when there was nothing left to serve one with', async (t) => {
  const folder = tempFolder(t);
  const [path, socket] = [join(folder, 'a.snap'), join(folder, 'socket')];
  writeSnapshot(path, [[0, 0, 7]]);
  const opened = openSnapshot(path);
  let isExhausted = true;
  // As eventfd(2) fails when it is the one descriptor too many.
  const snapshot = Object.defineProperty({ ...opened }, 'fetching', {
    get: () => {
      if (isExhausted) throw new Error('eventfd: EMFILE');
    },
  });
  const told: string[] = [];
  const server = await SnapshotServer.start({
    ...{ snapshot, uri: `unix:${socket}`, maxSessions: 4 },
    onMessage: (text) => told.push(text),
  });
  atEnd(t, async () => {
    await server.close();
    opened.close();
  });
  assert.equal(await firstBytes(socket), '');
  assert.match(told.join('\n'), /was refused: eventfd: EMFILE$/);
  isExhausted = false;
  assert.equal(await firstBytes(socket), 'QEVM');
});

test('SnapshotServer sends a client away that does not take the device state in time, and not before', async (t) => {
  const folder = tempFolder(t);
  const [path, socket] = [join(folder, 'a.snap'), join(folder, 'socket')];
  writeSnapshot(path, [[0, 0, 7]]);
  const opened = openSnapshot(path);
  // More than sockets hold that nobody reads.
  const snapshot = { ...opened, deviceSections: Buffer.alloc(8 * 1024 * 1024, opened.deviceSections) };
  const told: string[] = [];
  let heard = () => {};
  const server = await SnapshotServer.start({
    ...{ snapshot, uri: `unix:${socket}`, maxSessions: 4 },
    onMessage: (text) => {
      told.push(text);
      heard();
    },
  });
  const client = connect(socket).pause();
  atEnd(t, async () => {
    t.mock.timers.reset();
    client.destroy();
    await server.close();
    opened.close();
  });
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const next = () => new Promise<void>((resolve) => (heard = resolve));
  if (told.length === 0) await next();
  assert.match(told[0] ?? '', /has connected, 1 of at most 4$/);
  t.mock.timers.tick(HANDOVER_TIMEOUT_MS - 1);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(told.length, 1);
  t.mock.timers.tick(1);
  if (told.length === 1) await next();
  assert.match(told[1] ?? '', /was sent away, .*\(it has not taken the device state\)/);
});
