/**
 * Commands about the monitor itself.
 */
import * as v from 'valibot';
import { defineCommand, NO_ARGUMENTS } from '../command.ts';
import { QmpError } from '../errors.ts';
import { helpText } from '../help.ts';
import { runHumanLine } from '../human-line.ts';

/** `query-version`, and what QMP greets with: QEMU's shape, this program's version. */
export function versionInfo(version: string) {
  const [major = 0, minor = 0, micro = 0] = version.split(/[.-]/).map(Number);
  return { qemu: { micro, minor, major }, package: `postcopy ${version}` };
}

const capabilities = defineCommand({
  help: 'end the negotiation that QMP begins with',
  qmp: 'qmp_capabilities',
  schema: v.strictObject({ enable: v.optional(v.array(v.string())) }),
  handler(): never {
    throw new QmpError('Capabilities negotiation is already complete, command ignored', 'CommandNotFound');
  },
});

const queryVersion = defineCommand({
  help: 'show the version of this program',
  qmp: 'query-version',
  hmp: { name: 'info version' },
  schema: NO_ARGUMENTS,
  handler: ({ version }) => versionInfo(version),
  text: (value) => value.package,
});

const queryCommands = defineCommand({
  help: 'list the commands of QMP',
  qmp: 'query-commands',
  schema: NO_ARGUMENTS,
  handler: ({ commands }) => commands.flatMap(({ qmp }) => (qmp === undefined ? [] : [{ name: qmp }])),
});

const MACHINE_PATH = '/machine';

const qomGet = defineCommand({
  help: 'show a property of an object: "type" of "/machine" is the machine type',
  qmp: 'qom-get',
  schema: v.strictObject({ path: v.string(), property: v.string() }),
  handler({ vm }, { path, property }) {
    if (path !== MACHINE_PATH) throw new QmpError(`Device '${path}' not found`, 'DeviceNotFound');
    const type = `${vm.machineType}-machine`;
    if (property !== 'type') throw new QmpError(`Property '${type}.${property}' not found`);
    return type;
  },
});

const humanMonitorCommand = defineCommand({
  help: 'run a line of the human monitor and return its text',
  qmp: 'human-monitor-command',
  schema: v.strictObject({ 'command-line': v.string() }),
  async handler(context, input) {
    const text = await runHumanLine(context, input['command-line']);
    return text === '' ? '' : `${text}\r\n`;
  },
});

const help = defineCommand({
  help: 'list the commands, or explain one',
  hmp: {
    name: 'help',
    alias: '?',
    positional: [
      {
        name: 'command',
        kind: 'rest',
        isOptional: true,
        choices: ({ commands }) => commands.flatMap(({ hmp }) => (hmp === undefined ? [] : [hmp.name])),
      },
    ],
  },
  schema: v.strictObject({ command: v.optional(v.string(), '') }),
  handler: ({ commands }, { command }) => helpText(commands, command),
  text: (value) => value,
});

export const INTROSPECTION_COMMANDS = [
  capabilities,
  queryVersion,
  queryCommands,
  qomGet,
  humanMonitorCommand,
  help,
] as const;
