import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { atEnd } from '../../test/support/cleanup.ts';
import { tempFolder } from '../../test/support/temp-folder.ts';
import { writeSnapshot } from '../snapshot/example-file.ts';
import { openSnapshot } from '../snapshot/open-snapshot.ts';
import { SnapshotServer } from './snapshot-server.ts';

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
