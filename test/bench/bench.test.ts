/**
 * Benchmarks run tiny, so that they cannot rot. Nothing here depends on how long anything takes.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { suite, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { Figures } from '../../bench/bench.ts';
import { BENCHMARKS } from '../../bench/benchmarks.ts';
import { skipUnless } from '../support/requirements.ts';

interface Failed {
  readonly code: number;
  readonly stderr: string;
}

const MAIN = fileURLToPath(new URL('../../bench/main.js', import.meta.url));
const run = promisify(execFile);

suite('bench', { timeout: 400_000 }, () => {
  for (const { name, whyNot } of BENCHMARKS) {
    test(`${name} runs tiny and prints its figures`, async (t) => {
      const missing = whyNot?.();
      if (!skipUnless(t, name, missing === undefined, missing ?? '')) return;
      const { stdout } = await run(process.execPath, [MAIN, name, '--tiny', '--runs', '1']);
      const { at, host, results } = JSON.parse(stdout);
      assert(Number.isFinite(Date.parse(at)));
      assert.equal(host.node, process.version);
      assert.deepEqual(Object.keys(results), [name]);
      assert.equal(results[name].length, 1);
      assertFigures(results[name][0], name);
    });
  }

  test('a name that is none is refused, and those there are are listed', async () => {
    await assert.rejects(run(process.execPath, [MAIN, 'no-such']), (failure: Error & Failed) => {
      assert.equal(failure.code, 2);
      for (const { name } of BENCHMARKS) assert(failure.stderr.includes(name));
      return true;
    });
  });
});

/** Every figure is a number, and what counts pages, bytes or passes counts some. */
function assertFigures(figures: Figures, where: string): void {
  assert(Object.keys(figures).length > 0, `${where} has no figures`);
  for (const [name, value] of Object.entries(figures)) {
    if (typeof value === 'object') {
      assertFigures(value as Figures, `${where}.${name}`);
      continue;
    }
    assert(typeof value === 'number' && Number.isFinite(value), `${where}.${name} is ${value}`);
    if (/^(count|guestRamBytes|nonZeroBytes|bytesPerSecond|passes\w+)$/.test(name)) {
      assert(value > 0, `${where}.${name} counts nothing`);
    }
  }
}
