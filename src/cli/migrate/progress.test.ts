import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatProgress, MigrationProgress } from './progress.ts';

const RAM = {
  ...{ transferred: 0, remaining: 12 * 2 ** 20, total: 2 ** 28, mbps: 268.435456, 'dirty-sync-count': 3 },
  ...{ 'page-size': 4096, 'dirty-pages-rate': 2560, 'postcopy-requests': 7 },
};

test('formatProgress() says how far it is and whether it gets anywhere', () => {
  assert.equal(
    formatProgress('active', { ram: RAM }),
    'active  pass 3, 12 MiB of 256 MiB remain, 32 MiB/s, the guest dirties 10 MiB/s, 7 page requests',
  );
  assert.equal(formatProgress('setup', {}), 'setup');
});

test('MigrationProgress writes lines, and at a terminal one that is written over, once a second', () => {
  const written: string[] = [];
  const progress = new MigrationProgress({ write: (text) => written.push(text), isTTY: true, columns: 40 });
  progress.onProgress('active', { ram: RAM }, 500);
  progress.onProgress('active', { ram: RAM }, 900);
  progress.onLine('source', 'completed', 1234);
  progress.end();
  assert.deepEqual(written, [
    '\r\x1b[K    0.50 s  active  pass 3, 12 MiB of 2',
    '\r\x1b[K',
    '    1.23 s  source       completed\n',
  ]);
});

test('MigrationProgress writes only lines elsewhere', () => {
  const written: string[] = [];
  const progress = new MigrationProgress({ write: (text) => written.push(text) });
  progress.onProgress('active', { ram: RAM }, 500);
  progress.onLine('recover', 'attempt 1', 61_000);
  assert.deepEqual(written, ['   61.00 s  recover      attempt 1\n']);
});
