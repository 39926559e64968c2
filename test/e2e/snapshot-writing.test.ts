/**
 * A snapshot that cannot be written to its end, and one whose writer is killed: no half of one is left under its name.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { mapAnonymous } from '../../src/linux/memory.ts';
import { openSnapshot } from '../../src/snapshot/open-snapshot.ts';
import { SnapshotWriter, type SnapshotWriterOptions } from '../../src/snapshot/snapshot-writer.ts';
import { atEnd } from '../support/cleanup.ts';
import { mountSmallDisk } from '../support/small-disk.ts';
import { tempFolder } from '../support/temp-folder.ts';

const PAGE_BYTES = 4096;
const PAGES = 4096;

const optionsFor = (path: string): SnapshotWriterOptions => ({
  path,
  machineType: 'pc-1',
  ramSectionId: 2,
  blocks: [{ idstr: 'pc.ram', lengthBytes: PAGES * PAGE_BYTES, pageSizeBytes: PAGE_BYTES }],
});

for (const way of ['one by one', 'gathered'] as const) {
  test(`a full disk is an error that names the snapshot, and leaves what was there (pages ${way})`, (t) => {
    const folder = join(tempFolder(t), 'small');
    if (!mountSmallDisk(t, folder)) return;
    const path = join(folder, 'a.snap');
    writeFileSync(path, 'the one before');
    const writer = new SnapshotWriter({ ...optionsFor(path), overwrite: true });
    const memory = mapAnonymous(PAGE_BYTES);
    atEnd(t, () => memory.unmap());
    memory.bytes.fill(1);
    const write = (page: number): void => {
      if (way === 'gathered') writer.queuePage(0, page, memory.address);
      else writer.writePage(0, page, memory.bytes);
    };
    assert.throws(
      () => {
        for (let page = 0; page < PAGES; page++) write(page);
      },
      { code: 'SYSTEM', message: `Cannot write snapshot "${path}": no space left on device (ENOSPC)` },
    );
    writer.abandon();
    assert.deepEqual(readdirSync(folder), ['a.snap']);
  });
}

test("what a killed writer leaves is not taken for a snapshot, and in nobody's way", async (t) => {
  const folder = tempFolder(t);
  const path = join(folder, 'a.snap');
  const library = new URL('../../src/snapshot/snapshot-writer.js', import.meta.url);
  const program = `
    const { SnapshotWriter } = await import(${JSON.stringify(library.href)});
    const writer = new SnapshotWriter(${JSON.stringify(optionsFor(path))});
    for (let page = 0; page < ${PAGES}; page++) writer.writePage(0, page, new Uint8Array(${PAGE_BYTES}).fill(1));
    process.stdout.write('written');
    setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module', '--eval', program], {
    cwd: fileURLToPath(new URL('.', import.meta.url)),
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  atEnd(t, () => child.kill('SIGKILL'));
  const exit = once(child, 'exit');
  await once(child.stdout, 'data');
  child.kill('SIGKILL');
  await exit;

  const left = readdirSync(folder);
  assert.deepEqual(left, [`.a.snap.${child.pid}-1.partial`]);
  assert.throws(() => openSnapshot(join(folder, left[0] as string)), {
    code: 'NOT_A_SNAPSHOT',
    message: /it begins with zeros, as a snapshot does whose writing was not finished$/,
  });
  const writer = new SnapshotWriter(optionsFor(path));
  writer.finish(new Uint8Array());
  openSnapshot(path).close();
});
