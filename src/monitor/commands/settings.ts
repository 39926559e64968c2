/**
 * Commands that set and show the capabilities and parameters of a migration.
 */
import * as v from 'valibot';
import { CAPABILITIES, type Capability, capabilityNamed } from '../../migration/capabilities.ts';
import {
  checkParameter,
  isTextParameter,
  PARAMETER_NAMES,
  PARAMETERS,
  type Parameter,
  type Parameters,
  parameterNamed,
} from '../../migration/parameters.ts';
import { defineCommand, NO_ARGUMENTS } from '../command.ts';
import { parseParameterValue } from '../parse-quantity.ts';

const CAPABILITY_NAMES = Object.keys(CAPABILITIES) as Capability[];

const setCapabilities = defineCommand({
  help: 'switch a capability of migrations on or off',
  qmp: 'migrate-set-capabilities',
  hmp: {
    name: 'migrate_set_capability',
    positional: [
      { name: 'capability', kind: 'string', choices: () => CAPABILITY_NAMES },
      { name: 'state', kind: 'switch' },
    ],
    toArguments: ({ capability, state }) => ({ capabilities: [{ capability, state }] }),
  },
  schema: v.strictObject({
    capabilities: v.array(v.strictObject({ capability: v.string(), state: v.boolean() })),
  }),
  handler({ vm }, { capabilities }) {
    const changes = capabilities.map(
      ({ capability, state }) => [capabilityNamed(capability), state] as const,
    );
    vm.setCapabilities(Object.fromEntries(changes));
    return {};
  },
});

const setParameters = defineCommand({
  help: 'set a parameter of migrations, also while one runs (max-bandwidth: MiB/s; rates take K, M, G)',
  qmp: 'migrate-set-parameters',
  hmp: {
    name: 'migrate_set_parameter',
    positional: [
      { name: 'parameter', kind: 'string', choices: () => PARAMETER_NAMES },
      { name: 'value', kind: 'string' },
    ],
    toArguments({ parameter, value }) {
      const name = parameterNamed(String(parameter));
      return { [name]: parseParameterValue(name, String(value)) };
    },
  },
  // A name may also be null, which is none.
  schema: v.record(v.string(), v.nullable(v.union([v.number(), v.string()]))),
  handler({ vm }, input) {
    const changes = Object.entries(input).map(([key, value]) => {
      const name = parameterNamed(key);
      return [name, checkParameter(name, value)] as const;
    });
    vm.setParameters(Object.fromEntries(changes));
    return {};
  },
});

const queryCapabilities = defineCommand({
  help: 'show the capabilities of migrations',
  qmp: 'query-migrate-capabilities',
  hmp: { name: 'info migrate_capabilities' },
  schema: NO_ARGUMENTS,
  handler: ({ vm }) =>
    CAPABILITY_NAMES.map((capability) => ({ capability, state: vm.capabilities[capability] })),
  text: (states) =>
    states.map(({ capability, state }) => `${capability}: ${state ? 'on' : 'off'}`).join('\n'),
});

const queryParameters = defineCommand({
  help: 'show the parameters of migrations',
  qmp: 'query-migrate-parameters',
  hmp: { name: 'info migrate_parameters' },
  schema: NO_ARGUMENTS,
  handler: ({ vm }): Parameters => ({ ...vm.parameters }),
  text: (parameters) => PARAMETER_NAMES.map((name) => `${name}: ${shownValue(name, parameters)}`).join('\n'),
});

/** As QEMU shows it: a name in quotes. */
function shownValue(name: Parameter, parameters: Parameters): string {
  return isTextParameter(name) ? `'${parameters[name]}'` : `${parameters[name]} ${PARAMETERS[name].unit}`;
}

export const SETTINGS_COMMANDS = [
  setCapabilities,
  setParameters,
  queryCapabilities,
  queryParameters,
] as const;
