import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readSync, rmSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { connectChannel } from './connect.ts';
import { listenChannel } from './listen.ts';

let folder = '';
let path = '';
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'postcopy-'));
  path = join(folder, 'vm.stream');
});
afterEach(() => rmSync(folder, { recursive: true }));

test('connectChannel() to a file creates it for its owner only', async () => {
  (await connectChannel(`file:${path}`)).close();
  assert.equal(statSync(path).mode & 0o077, 0);
});

test('connectChannel() to a file replaces what was in it', async () => {
  writeFileSync(path, 'an older and longer stream');
  await write(`file:${path}`, 'new');
  assert.equal(readFileSync(path, 'utf8'), 'new');
});

test('connectChannel() to a file with an offset keeps what is before it, and cuts off the rest', async () => {
  writeFileSync(path, 'headerolder stream');
  await write(`file:${path},offset=6`, 'new');
  assert.equal(readFileSync(path, 'utf8'), 'headernew');
});

test('connectChannel() to a file shorter than the offset leaves a hole', async () => {
  await write(`file:${path},offset=1M`, 'x');
  assert.equal(statSync(path).size, 2 ** 20 + 1);
});

for (const offsetBytes of [1, 4096, 2 ** 20, 3 * 2 ** 20 + 5]) {
  test(`listenChannel() to a file reads from the offset ${offsetBytes}`, async () => {
    writeFileSync(path, `${'h'.repeat(offsetBytes)}stream`);
    assert.equal(await read(`file:${path},offset=${offsetBytes}`), 'stream');
  });
}

test('listenChannel() to a file refuses one that ends before the offset', async () => {
  writeFileSync(path, 'short');
  await assert.rejects(listenChannel(`file:${path},offset=6`), {
    code: 'EINVAL',
    message: `Failed to open "file:${path},offset=6": it has 5 bytes and ends before the offset`,
  });
});

test('listenChannel() to a file that is not there says so', async () => {
  await assert.rejects(listenChannel(`file:${path}`), {
    code: 'ENOENT',
    message: `Failed to open "file:${path}": no such file or directory`,
  });
});

test('listenChannel() and connectChannel() to a file refuse folders and named pipes', async () => {
  await assert.rejects(listenChannel(`file:${folder}`), {
    code: 'EISDIR',
    message: `Failed to open "file:${folder}": it is a directory`,
  });
  await assert.rejects(connectChannel(`file:${folder}`), { code: 'EISDIR' });

  execFileSync('mkfifo', [path]);
  await assert.rejects(listenChannel(`file:${path}`), {
    code: 'EINVAL',
    message: `Failed to open "file:${path}": it is a named pipe (use exec:)`,
  });
  await assert.rejects(connectChannel(`file:${path}`), {
    code: 'ENXIO',
    message: `Failed to open "file:${path}": no such device or address (for a named pipe use exec:)`,
  });
});

test('connectChannel() to a device writes to it', async () => {
  await write('file:/dev/null', 'x');
});

async function write(uri: string, text: string): Promise<void> {
  const channel = await connectChannel(uri);
  try {
    assert.equal(writeSync(channel.fd, text), text.length);
  } finally {
    channel.close();
  }
}

async function read(uri: string): Promise<string> {
  const listener = await listenChannel(uri);
  const channel = await listener.accept();
  try {
    const buffer = Buffer.alloc(64);
    return buffer.toString('utf8', 0, readSync(channel.fd, buffer));
  } finally {
    channel.close();
    listener.close();
  }
}
