import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, lstatSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { listenUnix } from './listen-unix.ts';

test('listenUnix() takes the place of a socket whose process was killed', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'postcopy-listen-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'socket');
  const script =
    'require("net").createServer().listen(process.argv[1], () => process.kill(process.pid, "SIGKILL"))';
  spawnSync(process.execPath, ['-e', script, path]);
  assert.ok(lstatSync(path).isSocket(), 'left behind');

  const server = await listenUnix(path, () => {});
  assert.ok(server.listening);
  await new Promise((resolve) => server.close(resolve));
  assert.equal(existsSync(path), false);
});
