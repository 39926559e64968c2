import assert from 'node:assert/strict';
import { existsSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { test } from 'node:test';
import { checkSocketWishes, MigrationSocket } from './migration-socket.ts';

test('MigrationSocket is a socket of our own alone unless told otherwise, and nothing is left of it', async () => {
  const socket = await MigrationSocket.open({ via: undefined, connect: undefined });
  const path = socket.connectUri.replace(/^unix:/, '');
  assert.equal(socket.isPrivate, true);
  assert.equal(statSync(dirname(path)).mode & 0o777, 0o700);
  assert.equal(statSync(path).isSocket(), true);
  socket.close();
  socket.close();
  assert.equal(existsSync(dirname(path)), false);
});

test('MigrationSocket tells the port that it got, or what it was told to tell', async () => {
  const socket = await MigrationSocket.open({ via: 'tcp:127.0.0.1:0', connect: undefined });
  assert.match(socket.connectUri, /^tcp:127\.0\.0\.1:[1-9]\d*$/);
  socket.close();
  const other = await MigrationSocket.open({ via: 'tcp:127.0.0.1:0', connect: 'tcp:host:1' });
  assert.equal(other.connectUri, 'tcp:host:1');
  other.close();
});

test('checkSocketWishes() refuses what QEMU could not connect to', () => {
  const check = (via?: string, connect?: string) => checkSocketWishes({ via, connect });
  check();
  check('unix:/a/b');
  check('tcp:192.0.2.1:0');
  check('tcp:[::]:4444', 'tcp:[2001:db8::1]:4444');
  assert.throws(() => check('tcp::4444'), /every address of this host; say with --connect/);
  assert.throws(() => check('tcp:0.0.0.0:0'), /--connect/);
  assert.throws(() => check('file:/tmp/x'), /must be tcp:HOST:PORT or unix:PATH/);
  assert.throws(() => check(undefined, 'tcp:h:1'), /give both/);
  assert.throws(() => check('tcp:h'), /Bad migration URI/);
  assert.throws(() => check('tcp:h:1', 'h:1'), /Bad migration URI/);
});
