import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { tempFolder } from '../../test/support/temp-folder.ts';
import { until } from '../../test/support/until.ts';
import { isByteLocked, tryLockByte, unlockByte } from './file-lock.ts';

test('tryLockByte() excludes other open files, byte by byte', (t) => {
  const path = join(tempFolder(t), 'file');
  const [one, other] = [openSync(path, 'a+'), openSync(path, 'a+')];
  assert.equal(tryLockByte(one, 5, 'exclusive'), true);
  assert.equal(tryLockByte(one, 5, 'exclusive'), true, 'its own');
  assert.equal(tryLockByte(other, 5, 'exclusive'), false);
  assert.equal(tryLockByte(other, 5, 'shared'), false);
  assert.equal(tryLockByte(other, 6, 'exclusive'), true);
  assert.deepEqual(
    [isByteLocked(other, 5), isByteLocked(one, 5), isByteLocked(one, 7)],
    [true, false, false],
  );
  assert.equal(tryLockByte(one, 5, 'shared'), true, 'changes its kind');
  assert.equal(tryLockByte(other, 5, 'shared'), true);
  assert.equal(tryLockByte(one, 5, 'exclusive'), false);
  closeSync(other);
  assert.equal(tryLockByte(one, 5, 'exclusive'), true);
  unlockByte(one, 5);
  assert.equal(isByteLocked(one, 6), false);
  closeSync(one);
  assert.throws(() => tryLockByte(-1, 0, 'shared'), { code: 'EBADF', syscall: 'fcntl' });
});

test('a lock is gone with the process that held it, however that ended', async (t) => {
  const path = join(tempFolder(t), 'file');
  const fd = openSync(path, 'a+');
  t.after(() => closeSync(fd));
  const code = `
    import { openSync } from 'node:fs';
    import { tryLockByte } from ${JSON.stringify(new URL('./file-lock.js', import.meta.url).href)};
    tryLockByte(openSync(${JSON.stringify(path)}, 'a+'), 9, 'exclusive');
    setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', code], { stdio: 'inherit' });
  t.after(() => child.kill('SIGKILL'));
  await until('the lock', () => isByteLocked(fd, 9));
  child.kill('SIGKILL');
  await once(child, 'exit');
  assert.equal(isByteLocked(fd, 9), false);
});
