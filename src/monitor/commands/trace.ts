/**
 * Commands that switch trace points on and off, and show them.
 */
import * as v from 'valibot';
import { matchTraceNames, TRACE_NAMES } from '../../telemetry/trace-names.ts';
import { defineCommand, type MonitorContext } from '../command.ts';
import { QmpError } from '../errors.ts';

const patternChoices = () => ['*', ...TRACE_NAMES];

const setState = defineCommand({
  help: 'switch trace points on or off by name; * stands for any characters',
  qmp: 'trace-event-set-state',
  hmp: {
    name: 'trace-event',
    positional: [
      { name: 'name', kind: 'string', choices: patternChoices },
      { name: 'enable', kind: 'switch' },
    ],
  },
  schema: v.strictObject({ name: v.string(), enable: v.boolean() }),
  handler({ vm }, { name, enable }) {
    if (vm.setTrace(name, enable).length === 0) throw unknownEvent(name);
    return {};
  },
});

const getState = defineCommand({
  help: 'show the trace points, all or those a name with * matches, and which are on',
  qmp: 'trace-event-get-state',
  schema: v.strictObject({ name: v.string() }),
  handler: traceStates,
});

const infoTraceEvents = defineCommand({
  help: 'show the trace points, all or those a name with * matches, and which are on',
  hmp: {
    name: 'info trace-events',
    positional: [{ name: 'name', kind: 'string', isOptional: true, choices: patternChoices }],
  },
  schema: v.strictObject({ name: v.optional(v.string(), '*') }),
  handler: traceStates,
  text: (states) =>
    states.map(({ name, state }) => `${name} : state ${state === 'enabled' ? 1 : 0}`).join('\n'),
});

function traceStates({ vm }: MonitorContext, { name: pattern }: { name: string }) {
  const names = matchTraceNames(pattern);
  if (names.length === 0) throw unknownEvent(pattern);
  return names.map((name) => ({ name, state: vm.enabledTraces.has(name) ? 'enabled' : 'disabled' }));
}

function unknownEvent(pattern: string): QmpError {
  return new QmpError(`unknown event "${pattern}"`);
}

export const TRACE_COMMANDS = [setState, getState, infoTraceEvents] as const;
