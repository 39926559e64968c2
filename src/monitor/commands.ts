/**
 * The table of all monitor commands.
 */
import type { Command } from './command.ts';
import { INTROSPECTION_COMMANDS } from './commands/introspection.ts';
import { MEMORY_COMMANDS } from './commands/memory.ts';
import { MIGRATE_COMMANDS } from './commands/migrate.ts';
import { OBJECT_COMMANDS } from './commands/objects.ts';
import { RUN_STATE_COMMANDS } from './commands/run-state.ts';
import { SETTINGS_COMMANDS } from './commands/settings.ts';
import { TRACE_COMMANDS } from './commands/trace.ts';

export const COMMANDS: readonly Command[] = [
  ...MIGRATE_COMMANDS,
  ...SETTINGS_COMMANDS,
  ...OBJECT_COMMANDS,
  ...RUN_STATE_COMMANDS,
  ...MEMORY_COMMANDS,
  ...TRACE_COMMANDS,
  ...INTROSPECTION_COMMANDS,
];
