import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { MigrationRamInfo } from '../migration/migration-info.ts';
import { formatMigrationInfo } from './format-migration.ts';

const GLOBALS = `globals:
store-global-state: on
only-migratable: off
send-configuration: on
send-section-footer: on
decompress-error-check: on
clear-bitmap-shift: 18`;

const RAM: MigrationRamInfo = {
  transferred: 407_000,
  remaining: 0,
  total: 66056 * 1024,
  duplicate: 16464,
  normal: 63,
  'normal-bytes': 252 * 1024,
  'dirty-pages-rate': 0,
  mbps: 592.642,
  'dirty-sync-count': 2,
  'postcopy-requests': 0,
  'page-size': 4096,
  'pages-per-second': 0,
  'precopy-bytes': 345 * 1024,
  'downtime-bytes': 52 * 1024,
  'postcopy-bytes': 0,
};

test('formatMigrationInfo() prints the globals alone before any migration', () => {
  assert.equal(formatMigrationInfo({}), GLOBALS);
});

test('formatMigrationInfo() prints a completed precopy as QEMU 7.2 does', () => {
  assert.equal(
    formatMigrationInfo({ status: 'completed', 'total-time': 7, downtime: 0, 'setup-time': 0, ram: RAM }),
    `${GLOBALS}
Migration status: completed
total time: 7 ms
downtime: 0 ms
setup: 0 ms
transferred ram: 397 kbytes
throughput: 592.64 mbps
remaining ram: 0 kbytes
total ram: 66056 kbytes
duplicate: 16464 pages
skipped: 0 pages
normal: 63 pages
normal bytes: 252 kbytes
dirty sync count: 2
page size: 4 kbytes
multifd bytes: 0 kbytes
pages-per-second: 0
precopy ram: 345 kbytes
downtime ram: 52 kbytes`,
  );
});

test('formatMigrationInfo() prints what a postcopy adds', () => {
  const text = formatMigrationInfo({
    status: 'postcopy-active',
    'expected-downtime': 300,
    ram: { ...RAM, 'dirty-pages-rate': 12, 'postcopy-requests': 9, 'postcopy-bytes': 2048 },
  });
  assert.match(text, /^Migration status: postcopy-active\nexpected downtime: 300 ms\ntransferred ram/m);
  assert.match(
    text,
    /pages-per-second: 0\ndirty pages rate: 12 pages\npostcopy request count: 9\nprecopy ram: 345 kbytes\ndowntime ram: 52 kbytes\npostcopy ram: 2 kbytes$/,
  );
});

test('formatMigrationInfo() prints why a migration failed', () => {
  assert.match(
    formatMigrationInfo({ status: 'failed', 'error-desc': 'Connection refused' }),
    /\nMigration status: failed \(Connection refused\)$/,
  );
});

test('formatMigrationInfo() prints our own lines last', () => {
  const latency = { count: 28_000, min: 4, mean: 11.2, p50: 9.1, p90: 15, p99: 30, 'p99.9': 120, max: 1500 };
  const text = formatMigrationInfo({
    status: 'completed',
    'socket-address': ['tcp:127.0.0.1:4444'],
    'x-side': 'destination',
    'x-incoming-state': 'end',
    'x-guest-downtime-us': 1234.5,
    'x-guest-downtime-exact': false,
    'x-resident-ms': 812.3456,
    'x-postcopy-cause': 'start-time',
    'x-pages-demanded': 1,
    'x-pages-pushed': 2,
    'x-page-request-latency-us': latency,
    'x-ping-round-trip-us': { ...latency, count: 0 },
    'x-bytes': { pages: 4096, 'zero-pages': 9, commands: 12, devices: 2 ** 20, 'return-path': 0 },
  });
  assert.equal(
    text,
    `${GLOBALS}
Migration status: completed
socket address: [
\ttcp:127.0.0.1:4444
]
side: destination
incoming state: end
postcopy cause: start-time
guest downtime: 1.23 ms (by the two hosts' wall clocks)
resident after: 812.346 ms
pages demanded: 1
pages pushed: 2
page request latency: min 4 us, mean 11.2 us, p50 9.1 us, p90 15 us, p99 30 us, p99.9 120 us, max 1.5 ms (of 28000)
bytes: pages 4 KiB, zero-pages 9 bytes, commands 12 bytes, devices 1 MiB, return-path 0 bytes`,
  );
});
