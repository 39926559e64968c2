import assert from 'node:assert/strict';
import {
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { skipUnless } from '../../test/support/requirements.ts';
import {
  MAX_WRITE_RANGES,
  preadInto,
  punchHole,
  renameNoReplace,
  startWriteback,
  WriteRanges,
} from './file-io.ts';
import { mapAnonymous } from './memory.ts';

function folderOf(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'file-io-'));
  t.after(() => rmSync(folder, { recursive: true }));
  return folder;
}

function openFile(t: TestContext): { path: string; fd: number } {
  const path = join(folderOf(t), 'file');
  const fd = openSync(path, 'w+');
  t.after(() => closeSync(fd));
  return { path, fd };
}

test('preadInto() reads at a place into memory, and up to the end of the file', (t) => {
  const { fd } = openFile(t);
  writeSync(fd, Buffer.from('abcdefgh'));
  const memory = mapAnonymous(4096);
  t.after(() => memory.unmap());
  assert.equal(preadInto(fd, memory.address, 3, 2), 3);
  assert.equal(preadInto(fd, memory.address + 8n, 100, 6), 2);
  assert.equal(Buffer.from(memory.bytes.subarray(0, 11)).toString('latin1'), 'cde\0\0\0\0\0gh\0');
  assert.equal(preadInto(fd, memory.address, 1, 8), 0);
  assert.throws(() => preadInto(-1, memory.address, 1, 0), { code: 'EBADF', syscall: 'pread' });
});

test('WriteRanges.writeAll() gathers ranges from anywhere into one place of a file', (t) => {
  const { path, fd } = openFile(t);
  const memory = mapAnonymous(4096);
  t.after(() => memory.unmap());
  memory.bytes.set(Buffer.from('abcdefghij'));
  const ranges = new WriteRanges();
  ranges.add(memory.address + 4n, 2);
  ranges.add(memory.address, 1);
  ranges.add(memory.address + 1n, 1);
  ranges.add(memory.address + 8n, 2);
  assert.equal(ranges.count, 3);
  assert.equal(ranges.lengthBytes, 6);
  ranges.writeAll(fd, 3);
  assert.equal(readFileSync(path, 'latin1'), '\0\0\0efabij');
  assert.equal(ranges.count, 0);
  ranges.add(memory.address, 2);
  ranges.writeAll(fd, 0);
  assert.equal(readFileSync(path, 'latin1'), 'ab\0efabij');
});

test('WriteRanges takes as many ranges as one call does, and no more', (t) => {
  const { path, fd } = openFile(t);
  const memory = mapAnonymous(4096);
  t.after(() => memory.unmap());
  memory.bytes.fill(7);
  const ranges = new WriteRanges();
  for (let index = 0; index < MAX_WRITE_RANGES; index++) ranges.add(memory.address + BigInt(index * 2), 1);
  assert.ok(ranges.isFull);
  assert.throws(() => ranges.add(memory.address, 1), /Cannot write more than 1024 ranges at once/);
  ranges.clear();
  for (let index = 0; index < MAX_WRITE_RANGES; index++) ranges.add(memory.address + BigInt(index * 2), 1);
  ranges.writeAll(fd, 0);
  assert.deepEqual(readFileSync(path), Buffer.alloc(MAX_WRITE_RANGES, 7));
});

test('WriteRanges.writeAll() says which call failed and how', () => {
  const ranges = new WriteRanges();
  const memory = mapAnonymous(4096);
  ranges.add(memory.address, 1);
  assert.throws(() => ranges.writeAll(-1, 0), { code: 'EBADF', syscall: 'pwritev' });
  memory.unmap();
});

test('punchHole() makes a range zero and gives its room back', (t) => {
  const { path, fd } = openFile(t);
  writeSync(fd, Buffer.alloc(64 * 1024, 1));
  const hasHoles = punchHole(fd, 16 * 1024, 32 * 1024);
  if (!skipUnless(t, 'Holes in files', hasHoles, `the file system of ${path} has none`)) return;
  const bytes = readFileSync(path);
  assert.equal(bytes.length, 64 * 1024);
  assert.ok(bytes.subarray(16 * 1024, 48 * 1024).every((byte) => byte === 0));
  assert.equal(bytes[48 * 1024], 1);
  assert.ok(statSync(path).blocks * 512 <= 32 * 1024);
});

test('renameNoReplace() gives a file a name that no other has', (t) => {
  const folder = folderOf(t);
  const [old, taken, free] = [join(folder, 'old'), join(folder, 'taken'), join(folder, 'free')];
  writeFileSync(old, 'old');
  writeFileSync(taken, 'taken');
  assert.throws(() => renameNoReplace(old, taken), { code: 'EEXIST' });
  assert.equal(readFileSync(taken, 'latin1'), 'taken');
  const isRenamed = renameNoReplace(old, free);
  if (!skipUnless(t, 'RENAME_NOREPLACE', isRenamed, `the file system of ${folder} lacks it`)) return;
  assert.equal(readFileSync(free, 'latin1'), 'old');
});

test('startWriteback() puts what was written on its way, and minds no descriptor that is not open', async (t) => {
  const { fd } = openFile(t);
  writeSync(fd, Buffer.alloc(8192, 1));
  await startWriteback(fd);
  await startWriteback(1_000_000);
});
