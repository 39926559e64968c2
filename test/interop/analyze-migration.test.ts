/**
 * A stream of ours, read by QEMU's own scripts/analyze-migration.py: sections, device fields, and all of RAM.
 *
 * The script is part of QEMU's sources and of no Debian package but those: POSTCOPY_ANALYZE_MIGRATION names it.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { saveMemory } from '../support/guest-memory.ts';
import { startSource } from '../support/pair.ts';
import { skipUnless } from '../support/requirements.ts';
import { tempFolder } from '../support/temp-folder.ts';

const SCRIPT = process.env['POSTCOPY_ANALYZE_MIGRATION'] ?? '';
const MEMORY_MIB = 16;

test("QEMU's analyze-migration.py reads our stream, and finds the guest's memory in it", {
  timeout: 60_000,
}, async (t) => {
  if (!needsScript(t)) return;
  const folder = tempFolder(t);
  const stream = join(folder, 'stream');
  const source = await startSource(t, folder, { memoryMib: MEMORY_MIB, rangeMib: 4 });
  await source.migrate(`file:${stream}`);
  await source.untilStatus('completed');

  const state = JSON.parse(analyze(folder, ['-f', stream]));
  assert.deepEqual(Object.keys(state), ['ram (2)', 'globalstate (3)', 'v86 (4)']);
  assert.deepEqual(state['ram (2)']['section sizes'], {
    'pc.ram': '0x0000000001000000',
    'vga.vram': '0x0000000000100000',
  });
  const runState = Buffer.from(state['globalstate (3)'].runstate.replaceAll(' ', ''), 'hex');
  assert.equal(runState.toString('latin1').replace(/\0+$/, ''), 'running');
  assert.match(state['v86 (4)'].state, /^[0-9a-f]{2}( [0-9a-f]{2})+ ?$/);

  const description = JSON.parse(analyze(folder, ['-f', stream, '-d', 'desc']));
  assert.deepEqual(
    description.devices.map(({ name }: { name: string }) => name),
    ['globalstate', 'v86'],
  );

  const extracted = join(folder, 'extracted');
  mkdirSync(extracted);
  analyze(extracted, ['-x', '-f', stream]);
  const ram = await saveMemory(source, folder, { lengthBytes: MEMORY_MIB * 2 ** 20 });
  assert(
    readFileSync(join(extracted, 'pc.ram')).equals(ram),
    'RAM in the stream is not what the guest left behind',
  );
});

function needsScript(t: TestContext): boolean {
  const hasPython = spawnSync('python3', ['--version']).status === 0;
  const why = 'set POSTCOPY_ANALYZE_MIGRATION to scripts/analyze-migration.py of QEMU (apt-get source qemu)';
  return (
    skipUnless(t, 'Python', hasPython, 'python3 is not installed') &&
    skipUnless(t, 'analyze-migration.py', existsSync(SCRIPT), why)
  );
}

/** @param folder where the script puts the files it extracts */
function analyze(folder: string, args: readonly string[]): string {
  return execFileSync('python3', [SCRIPT, ...args], { cwd: folder, encoding: 'utf8', maxBuffer: 2 ** 26 });
}
