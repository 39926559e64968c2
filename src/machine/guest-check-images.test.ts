import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { skipUnless } from '../../test/support/requirements.ts';

const guests = fileURLToPath(new URL('../../../guests/', import.meta.url));
const hasNasm = spawnSync('nasm', ['-v']).status === 0;

test('guests/*.bin are what guests/build.sh makes', (t) => {
  if (!skipUnless(t, 'NASM', hasNasm, 'nasm is not installed')) return;
  const built = mkdtempSync(join(tmpdir(), 'guests-'));
  try {
    execFileSync(join(guests, 'build.sh'), [built]);
    for (const name of ['counter', 'random', 'reader', 'clock']) {
      assert.deepEqual(
        readFileSync(join(built, `${name}.bin`)),
        readFileSync(join(guests, `${name}.bin`)),
        `guests/${name}.bin is out of date: run guests/build.sh`,
      );
    }
  } finally {
    rmSync(built, { recursive: true });
  }
});
