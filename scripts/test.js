/**
 * Runs the compiled test files (*.test.js) under the given folders or files with node:test.
 *
 *   node scripts/test.js dist/src dist/test [-- extra node --test flags]
 *
 * Node 20 has no globs for --test, hence this list. Files run one after the other: the tests of whole migrations
 * start processes of their own and share the machine's cores with them.
 */
import { spawnSync } from 'node:child_process';
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';

/** Longer than any file takes on a busy machine. */
const HANG_MS = 600_000;

const separator = process.argv.indexOf('--');
const roots = process.argv.slice(2, separator === -1 ? undefined : separator);
const flags = separator === -1 ? [] : process.argv.slice(separator + 1);

const files = roots
  .flatMap((root) =>
    statSync(root).isDirectory()
      ? readdirSync(root, { recursive: true }).map((name) => join(root, String(name)))
      : [root],
  )
  .filter((file) => file.endsWith('.test.js'))
  .sort();

if (files.length === 0) {
  console.error(`No test files under ${roots.join(', ')}: is the project built?`);
  process.exit(1);
}

/** A file that hangs fails, also when it is a thread that cannot be ended. Node has the option from 20.11 on. */
const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
const hangLimit = major > 20 || minor >= 11 ? [`--test-timeout=${HANG_MS}`] : [];
const run = spawnSync(
  process.execPath,
  ['--test', '--test-concurrency=1', '--test-reporter=spec', ...hangLimit, ...flags, ...files],
  {
    stdio: 'inherit',
  },
);
process.exit(run.status ?? 1);
