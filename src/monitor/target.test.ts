import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseMonitorTarget } from './target.ts';

test('parseMonitorTarget() takes stdio, none and unix sockets', () => {
  assert.deepEqual(parseMonitorTarget('stdio'), { kind: 'stdio' });
  assert.deepEqual(parseMonitorTarget('none'), { kind: 'none' });
  assert.deepEqual(parseMonitorTarget('unix:/run/m'), { kind: 'unix', path: '/run/m' });
  assert.deepEqual(parseMonitorTarget('unix:m,server=on,wait=off'), { kind: 'unix', path: 'm' });
  assert.deepEqual(parseMonitorTarget('unix:m,server,nowait'), { kind: 'unix', path: 'm' });
});

test('parseMonitorTarget() refuses the rest', () => {
  const refused: [text: string, message: string][] = [
    ['tcp:h:1', 'Monitor must be stdio, unix:PATH or none, got "tcp:h:1"'],
    ['', 'Monitor must be stdio, unix:PATH or none, got ""'],
    ['unix:', 'Monitor "unix:" lacks a path'],
    ['unix:m,wait=on', 'Monitor "unix:m,wait=on" has an unknown option "wait=on"'],
    [
      `unix:/${'x'.repeat(107)}`,
      `Path of a unix socket must be at most 107 bytes, got 108: "/${'x'.repeat(107)}"`,
    ],
  ];
  for (const [text, message] of refused) {
    assert.throws(() => parseMonitorTarget(text), { name: 'RangeError', message });
  }
});
