/**
 * Holds the layers: a folder of src/ imports only from the folders named for it here.
 *
 * Tests may import from anywhere. The picture is in docs/architecture.md; a new folder must be entered here.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';

const MAY_IMPORT = {
  wire: [],
  memory: [],
  telemetry: [],
  linux: [],
  snapshot: ['wire', 'memory', 'linux'],
  machine: ['memory'],
  'machine/v86': ['machine', 'memory', 'linux'],
  migration: ['wire', 'memory', 'telemetry'],
  cache: ['migration', 'memory', 'linux'],
  tls: [],
  transport: ['tls', 'linux'],
  inspect: ['wire', 'memory', 'telemetry'],
  relay: ['inspect', 'migration', 'wire', 'memory', 'telemetry', 'linux', 'tls', 'transport'],
  qemu: [],
  threads: [
    'migration',
    'memory',
    'wire',
    'telemetry',
    'linux',
    'transport',
    'snapshot',
    'cache',
    'machine',
    'machine/v86',
  ],
  save: ['threads', 'snapshot', 'telemetry', 'linux', 'tls', 'transport', 'qemu'],
  restore: [
    'threads',
    'snapshot',
    'migration',
    'memory',
    'wire',
    'telemetry',
    'linux',
    'tls',
    'transport',
    'qemu',
  ],
  drive: ['qemu', 'transport', 'telemetry'],
  vm: ['threads', 'migration', 'memory', 'telemetry', 'linux', 'tls', 'transport', 'machine', 'machine/v86'],
  monitor: ['vm', 'migration', 'telemetry', 'tls', 'qemu'],
  cli: [
    'monitor',
    'vm',
    'threads',
    'migration',
    'memory',
    'machine',
    'machine/v86',
    'linux',
    'telemetry',
    'tls',
    'transport',
    'qemu',
    'inspect',
    'relay',
    'wire',
    'snapshot',
    'cache',
    'save',
    'restore',
    'drive',
  ],
};

const folderOf = (path) => {
  const folder = dirname(path).replace(/^src\/?/, '');
  return folder in MAY_IMPORT ? folder : folder.split('/')[0];
};

const violations = [];
for (const name of readdirSync('src', { recursive: true }).map(String)) {
  if (!name.endsWith('.ts') || name.endsWith('.test.ts') || dirname(name) === '.') continue;
  const path = join('src', name);
  const from = folderOf(path);
  const allowed = MAY_IMPORT[from];
  if (allowed === undefined) {
    violations.push(`${path}: the folder "${from}" is not in scripts/layering.js`);
    continue;
  }
  for (const [, target] of readFileSync(path, 'utf8').matchAll(/(?:from|import)\s*\(?'(\.[^']+)'/g)) {
    const to = folderOf(normalize(join(dirname(path), target)));
    if (to !== from && !allowed.includes(to))
      violations.push(`${path}: "${from}" must not import from "${to}" (${target})`);
  }
}

if (violations.length > 0) {
  console.error(
    `Layering: ${violations.length} import(s) that point the wrong way\n  ${violations.join('\n  ')}`,
  );
  process.exit(1);
}
