/**
 * What a monitor command is: one entry that both monitors, QMP for programs and HMP for people, are made from.
 *
 *   QMP   JSON arguments ───────────────▶ schema ─▶ handler ─▶ JSON value
 *   HMP   words ─▶ HmpForm.toArguments ─▶ schema ─▶ handler ─▶ text
 */
import * as v from 'valibot';
import type { Vm } from '../vm/vm.ts';
import { QmpError } from './errors.ts';

/** What commands act on. Each connection has its own. */
export interface MonitorContext {
  readonly vm: Vm;
  /** Version of this program, `major.minor.micro`. */
  readonly version: string;
  readonly commands: readonly Command[];
  /** Ends the program once the reply to the present command is out. */
  quit(): void;
}

/** A positional argument at the human monitor. */
export interface HmpArgument {
  readonly name: string;
  /** `size` is a number with an optional suffix, `switch` is `on` or `off`, `rest` is all that is left of the line. */
  readonly kind: 'string' | 'size' | 'switch' | 'rest';
  readonly isOptional?: boolean;
  /** What Tab offers. */
  choices?(context: MonitorContext): readonly string[];
}

/** Arguments by name, as the words of a line gave them; a flag is true when it was there. */
export type HmpValues = Readonly<Record<string, string | number | boolean>>;

export interface HmpForm {
  /** One word, or `info` and one word. */
  readonly name: string;
  readonly alias?: string;
  /** Letter of each flag to the name of its argument. */
  readonly flags?: Readonly<Record<string, string>>;
  readonly positional?: readonly HmpArgument[];
  /** The arguments in QMP's form; without it they are the same. @throws {RangeError} if a value makes no sense */
  toArguments?(values: HmpValues): unknown;
}

export interface Command {
  /** One line for `help`. */
  readonly help: string;
  /** Name at QMP; absent for a command that only people need. */
  readonly qmp?: string;
  /** Can overtake others at QMP (`exec-oob`): it must answer soon, whatever the guest waits for. */
  readonly isUrgent: boolean;
  /** Absent for a command that only programs need. */
  readonly hmp?: HmpForm;
  /** @returns QMP's value. @throws {QmpError} if the arguments do not fit */
  execute(context: MonitorContext, input: unknown): Promise<unknown>;
  /** @returns text for people, without an end of line; empty if there is nothing to say */
  executeAsText(context: MonitorContext, input: unknown): Promise<string>;
}

interface CommandDefinition<Schema extends v.GenericSchema, Value> {
  readonly help: string;
  readonly qmp?: string;
  readonly hmp?: HmpForm;
  /** Default: false. */
  readonly isUrgent?: boolean;
  /** Shape of the QMP arguments. */
  readonly schema: Schema;
  handler(context: MonitorContext, input: v.InferOutput<Schema>): Value | Promise<Value>;
  /** The value for people; without it a command that succeeded says nothing. */
  text?(value: Value, input: v.InferOutput<Schema>, context: MonitorContext): string | Promise<string>;
}

/** The schema of a command without arguments. */
export const NO_ARGUMENTS = v.strictObject({});

export function defineCommand<Schema extends v.GenericSchema, Value>(
  definition: CommandDefinition<Schema, Value>,
): Command {
  const { help, qmp, hmp, isUrgent = false, schema, handler, text } = definition;
  return {
    help,
    isUrgent,
    ...(qmp !== undefined && { qmp }),
    ...(hmp !== undefined && { hmp }),
    async execute(context, input) {
      return await handler(context, parseArguments(schema, input));
    },
    async executeAsText(context, input) {
      const parsed = parseArguments(schema, input);
      const value = await handler(context, parsed);
      return text === undefined ? '' : await text(value, parsed, context);
    },
  };
}

function parseArguments<Schema extends v.GenericSchema>(
  schema: Schema,
  input: unknown,
): v.InferOutput<Schema> {
  const result = v.safeParse(schema, input, { abortEarly: true });
  if (!result.success) throw new QmpError(describeIssue(result.issues[0]));
  return result.output;
}

/** QEMU's texts for arguments that do not fit. */
function describeIssue(issue: v.BaseIssue<unknown>): string {
  const path = describePath(issue.path ?? []);
  if (issue.kind === 'schema' && (issue.type === 'strict_object' || issue.type === 'loose_object')) {
    if (issue.expected === 'never') return `Parameter '${path}' is unexpected`;
    if (issue.received === 'undefined') return `Parameter '${path}' is missing`;
  }
  if (issue.kind === 'validation') return `Parameter '${path}' ${issue.message}`;
  return `Invalid parameter type for '${path}', expected: ${(issue.expected ?? 'another').toLowerCase()}`;
}

/** e.g. `capabilities[0].state` */
function describePath(path: readonly { type: string; key?: unknown }[]): string {
  return path
    .map(({ type, key }, index) => (type === 'array' ? `[${key}]` : index === 0 ? `${key}` : `.${key}`))
    .join('');
}
