import assert from 'node:assert/strict';
import { existsSync, lstatSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { connectChannel } from './connect.ts';
import { listenChannel } from './listen.ts';

let folder = '';
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'postcopy-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

for (const host of ['', '0', '0.0.0.0']) {
  test(`listenChannel() on tcp:${host}:0 listens on every address, and says which port it got`, async () => {
    const listener = await listenChannel(`tcp:${host}:0`);
    try {
      assert.match(
        listener.address,
        host === '' ? /^tcp:(\[::\]|0\.0\.0\.0):[1-9]\d*$/ : /^tcp:0\.0\.0\.0:[1-9]\d*$/,
      );
      const accepting = listener.accept();
      const source = await connectChannel(`tcp:127.0.0.1:${listener.address.split(':').at(-1)}`);
      source.close();
      const destination = await accepting;
      destination.close();
      assert.match(destination.peer, /^tcp:127\.0\.0\.1:\d+$/);
    } finally {
      listener.close();
    }
  });
}

test('listenChannel() refuses an address that is not of this host', async () => {
  await assert.rejects(listenChannel('tcp:192.0.2.1:0'), {
    code: 'EADDRNOTAVAIL',
    message: 'Failed to listen on "tcp:192.0.2.1:0": address not available (is it an address of this host?)',
  });
});

test('listenChannel() removes its socket file on close', async () => {
  const path = join(folder, 'vm.sock');
  const listener = await listenChannel(`unix:${path}`);
  assert(lstatSync(path).isSocket());
  listener.close();
  assert(!existsSync(path));
});

test('listenChannel() replaces a socket file whose server has gone', async () => {
  const path = join(folder, 'vm.sock');
  await leaveStaleSocket(path);
  await assert.rejects(connectChannel(`unix:${path}`), {
    code: 'ECONNREFUSED',
    message: `Failed to connect to "unix:${path}": connection refused (is a destination listening there?)`,
  });

  const listener = await listenChannel(`unix:${path}`);
  const accepting = listener.accept();
  (await connectChannel(`unix:${path}`)).close();
  (await accepting).close();
  listener.close();
});

test('listenChannel() leaves the socket file of a live server that goes by another name', async () => {
  const listener = await listenChannel(`unix:${join(folder, 'bound.sock')}`);
  const path = join(folder, 'renamed.sock');
  renameSync(join(folder, 'bound.sock'), path);
  try {
    await assert.rejects(listenChannel(`unix:${path}`), { code: 'EADDRINUSE' });
    assert(lstatSync(path).isSocket());
  } finally {
    listener.close();
  }
});

test('listenChannel() knows its own socket by a relative path too', async () => {
  const path = join(folder, 'vm.sock');
  const listener = await listenChannel(`unix:${path}`);
  const accepting = listener.accept();
  try {
    await assert.rejects(listenChannel(`unix:${relative('.', path)}`), { code: 'EADDRINUSE' });
  } finally {
    listener.close();
    // Had it been found by connecting, this would have been accepted instead.
    await assert.rejects(accepting, { code: 'ECANCELED' });
  }
});

test('listenChannel() never replaces a file that is not a socket', async () => {
  const path = join(folder, 'precious');
  writeFileSync(path, 'data');
  await assert.rejects(listenChannel(`unix:${path}`), {
    code: 'EADDRINUSE',
    message: `Failed to listen on "unix:${path}": address already in use (the path is taken by something that is not a socket)`,
  });
  assert.equal(readFileSync(path, 'utf8'), 'data');
});

test('listenChannel() names a folder that is not there', async () => {
  const uri = `unix:${join(folder, 'absent', 'vm.sock')}`;
  await assert.rejects(listenChannel(uri), (error: NodeJS.ErrnoException) => {
    assert.equal(error.code, 'ENOENT');
    assert.equal(error.message, `Failed to listen on "${uri}": no such file or directory`);
    return true;
  });
});

/** libuv removes the file by the name it bound, so a renamed one stays. */
async function leaveStaleSocket(path: string): Promise<void> {
  const listener = await listenChannel(`unix:${path}.bound`);
  renameSync(`${path}.bound`, path);
  listener.close();
}
