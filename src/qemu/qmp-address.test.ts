import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatQmpAddress, parseQmpAddress } from './qmp-address.ts';

test('parseQmpAddress() reads every form, and formatQmpAddress() gives it back', () => {
  const unix = { kind: 'unix', path: '/run/vm.qmp' };
  assert.deepEqual(parseQmpAddress('unix:/run/vm.qmp'), unix);
  assert.deepEqual(parseQmpAddress('/run/vm.qmp'), unix);
  assert.deepEqual(parseQmpAddress('unix:/run/vm.qmp,server=on,wait=off'), unix);
  assert.deepEqual(parseQmpAddress('vm.qmp'), { kind: 'unix', path: 'vm.qmp' });
  assert.deepEqual(parseQmpAddress('a,b'), { kind: 'unix', path: 'a,b' });
  assert.deepEqual(parseQmpAddress('tcp:host:4444'), { kind: 'tcp', host: 'host', port: 4444 });
  assert.deepEqual(parseQmpAddress('tcp::4444,server,nowait'), {
    kind: 'tcp',
    host: '127.0.0.1',
    port: 4444,
  });
  for (const text of ['unix:/run/vm.qmp', 'tcp:10.0.0.1:1', 'tcp:[::1]:65535']) {
    assert.equal(formatQmpAddress(parseQmpAddress(text)), text);
  }
});

test('parseQmpAddress() refuses what is no address, and says what would do', () => {
  for (const text of ['', 'unix:', 'tcp:host', 'tcp:host:', 'tcp:host:port', 'tcp:::1:4', 'tcp:h:123456']) {
    assert.throws(() => parseQmpAddress(text), /expected unix:PATH, tcp:HOST:PORT or the path/, text);
  }
  assert.throws(() => parseQmpAddress('tcp:h:0'), /port must be a number from 1 to 65535/);
  assert.throws(() => parseQmpAddress('tcp:h:65536'), /port must be a number from 1 to 65535/);
  assert.throws(() => parseQmpAddress(`unix:/${'x'.repeat(107)}`), /at most 107 bytes, got 108/);
  assert.throws(() => parseQmpAddress('a\0b'), /NUL/);
});
