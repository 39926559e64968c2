import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseQmpAddress } from '../qemu/qmp-address.ts';
import { connectUriOf, uriOfSocketAddress } from './socket-address.ts';

const LOCAL = parseQmpAddress('unix:/a');
const REMOTE = parseQmpAddress('tcp:host-b:4000');

test("uriOfSocketAddress() reads QEMU's objects and our texts", () => {
  assert.equal(
    uriOfSocketAddress({ type: 'inet', host: '127.0.0.1', port: '4444', ipv4: true }),
    'tcp:127.0.0.1:4444',
  );
  assert.equal(uriOfSocketAddress({ type: 'inet', host: '::1', port: '4444' }), 'tcp:[::1]:4444');
  assert.equal(uriOfSocketAddress({ type: 'unix', path: '/tmp/s' }), 'unix:/tmp/s');
  assert.equal(uriOfSocketAddress({ type: 'vsock', cid: '2', port: '77' }), 'vsock:2:77');
  assert.equal(uriOfSocketAddress('tcp:127.0.0.1:4444'), 'tcp:127.0.0.1:4444');
  for (const other of [undefined, null, 7, {}, { type: 'fd', str: 'x' }, { type: 'inet' }]) {
    assert.equal(uriOfSocketAddress(other), undefined);
  }
});

test('connectUriOf() leaves an address alone that can be connected to', () => {
  for (const uri of ['tcp:10.0.0.2:4444', 'tcp:[fe80::1]:1', 'unix:/tmp/s', 'vsock:2:77', 'exec:cat']) {
    assert.equal(connectUriOf(uri, LOCAL, REMOTE), uri);
  }
});

test('connectUriOf() takes the host of the monitor for one that listens everywhere', () => {
  assert.equal(connectUriOf('tcp:0.0.0.0:4444', LOCAL, LOCAL), 'tcp:127.0.0.1:4444');
  assert.equal(connectUriOf('tcp::4444', LOCAL, LOCAL), 'tcp:127.0.0.1:4444');
  assert.equal(connectUriOf('tcp:[::]:4444', LOCAL, LOCAL), 'tcp:[::1]:4444');
  assert.equal(connectUriOf('tcp:0.0.0.0:4444', LOCAL, REMOTE), 'tcp:host-b:4444');
  assert.throws(
    () => connectUriOf('tcp:0.0.0.0:4444', REMOTE, LOCAL),
    /give one that the source reaches as --uri tcp:HOST:4444/,
  );
});
