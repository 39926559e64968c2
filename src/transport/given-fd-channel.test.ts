import assert from 'node:assert/strict';
import { closeSync, fstatSync, openSync } from 'node:fs';
import { test } from 'node:test';
import { pipeCloexec } from '../linux/fd.ts';
import { connectChannel } from './connect.ts';
import { listenChannel } from './listen.ts';

test('connectChannel() and listenChannel() refuse a descriptor that is not open', async () => {
  const refusal = {
    code: 'EBADF',
    message: 'Failed to open "fd:999999": bad file descriptor (it is not open in this process)',
  };
  await assert.rejects(connectChannel('fd:999999'), refusal);
  await assert.rejects(listenChannel('fd:999999'), refusal);
});

test('connectChannel() and listenChannel() refuse a descriptor of the other direction, and leave it open', async () => {
  const [readFd, writeFd] = pipeCloexec();
  try {
    await assert.rejects(connectChannel(`fd:${readFd}`), {
      code: 'EBADF',
      message: `Failed to open "fd:${readFd}": the descriptor is open for reading only`,
    });
    await assert.rejects(listenChannel(`fd:${writeFd}`), {
      code: 'EBADF',
      message: `Failed to open "fd:${writeFd}": the descriptor is open for writing only`,
    });
  } finally {
    closeSync(readFd);
    closeSync(writeFd);
  }
});

test('close() of a listener closes a descriptor that nobody accepted', async () => {
  const fd = openSync('/dev/null', 'r');
  const listener = await listenChannel(`fd:${fd}`);
  assert.equal(listener.address, `fd:${fd}`);
  listener.close();
  assert.throws(() => fstatSync(fd), { code: 'EBADF' });
});
