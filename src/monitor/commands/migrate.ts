/**
 * Commands that start, switch, cancel and show a migration.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import * as v from 'valibot';
import { defineCommand, NO_ARGUMENTS } from '../command.ts';
import { QmpError } from '../errors.ts';
import { formatMigrationInfo } from '../format-migration.ts';

/**
 * A connection may take its time. Whoever waited for it at the same monitor could not call it off; after so long the answer is
 * that the migration is being set up, as QEMU answers at once, and its state says how that went.
 */
const CONNECT_PATIENCE_MS = 1000;

const migrate = defineCommand({
  help: 'move the guest to URI (-d: do not wait until it is over; -r: go on with a postcopy that is paused)',
  qmp: 'migrate',
  hmp: {
    name: 'migrate',
    flags: { d: 'detach', r: 'resume' },
    positional: [{ name: 'uri', kind: 'string' }],
  },
  // QEMU's QMP takes `detach` and ignores it, since it never waits; here it is how -d reaches the human form.
  schema: v.strictObject({
    uri: v.string(),
    detach: v.optional(v.boolean()),
    resume: v.optional(v.boolean()),
  }),
  async handler({ vm }, { uri, resume = false }) {
    const isSetUp = vm.migrate(uri, { resume });
    isSetUp.catch(() => {}); // Whoever is not told here is told by the state.
    await Promise.race([isSetUp, sleep(CONNECT_PATIENCE_MS, undefined, { ref: false })]);
    return {};
  },
  async text(_value, { detach }, { vm }) {
    if (detach === true) return '';
    const status = await vm.migrationEnded();
    if (status === 'completed' || status === 'cancelled') return '';
    const info = await vm.queryMigrate();
    throw new QmpError(info['error-desc'] ?? `The migration ended as "${status}"`);
  },
});

const migrateCancel = defineCommand({
  help: 'cancel the outgoing migration; the guest runs on here',
  qmp: 'migrate_cancel',
  hmp: { name: 'migrate_cancel' },
  schema: NO_ARGUMENTS,
  async handler({ vm }) {
    await vm.migrateCancel();
    return {};
  },
});

const migrateStartPostcopy = defineCommand({
  help: 'switch the migration to postcopy: the guest runs at the destination from now on',
  qmp: 'migrate-start-postcopy',
  hmp: { name: 'migrate_start_postcopy' },
  schema: NO_ARGUMENTS,
  async handler({ vm }) {
    await vm.migrateStartPostcopy();
    return {};
  },
});

const migrateIncoming = defineCommand({
  help: 'wait for a migration at URI (with --incoming defer, or once the guest here has moved away)',
  qmp: 'migrate-incoming',
  hmp: { name: 'migrate_incoming', positional: [{ name: 'uri', kind: 'string' }] },
  schema: v.strictObject({ uri: v.string() }),
  async handler({ vm }, { uri }) {
    await vm.migrateIncoming(uri);
    return {};
  },
});

const migrateRecover = defineCommand({
  help: 'destination of a postcopy that is paused: wait for its source at URI',
  qmp: 'migrate-recover',
  isUrgent: true,
  hmp: { name: 'migrate_recover', positional: [{ name: 'uri', kind: 'string' }] },
  schema: v.strictObject({ uri: v.string() }),
  async handler({ vm }, { uri }) {
    await vm.migrateRecover(uri);
    return {};
  },
});

const migratePause = defineCommand({
  help: 'break off the connection of a postcopy, to recover it on another',
  qmp: 'migrate-pause',
  isUrgent: true,
  hmp: { name: 'migrate_pause' },
  schema: NO_ARGUMENTS,
  async handler({ vm }) {
    await vm.migratePause();
    return {};
  },
});

const queryMigrate = defineCommand({
  help: 'show migration status',
  qmp: 'query-migrate',
  hmp: { name: 'info migrate' },
  schema: NO_ARGUMENTS,
  handler: ({ vm }) => vm.queryMigrate(),
  text: formatMigrationInfo,
});

export const MIGRATE_COMMANDS = [
  migrate,
  migrateCancel,
  migrateStartPostcopy,
  migrateIncoming,
  migrateRecover,
  migratePause,
  queryMigrate,
] as const;
