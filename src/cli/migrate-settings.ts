/**
 * The options of `postcopy migrate`, as typed, to what they mean.
 */
import type { MigrationPlan } from '../drive/migration-driver.ts';
import type { SwitchPlan } from '../drive/postcopy-switch.ts';
import type { ParameterValue, Wish } from '../drive/settings.ts';
import { parseSize, parseSwitch } from '../monitor/parse-quantity.ts';
import { formatQmpAddress, parseQmpAddress } from '../qemu/qmp-address.ts';
import { parseMigrationUri } from '../transport/parse-uri.ts';
import { parseDurationMs } from './parse-duration.ts';
import { UsageError } from './usage-error.ts';

/** As the command line gave them. */
export interface MigrateOptions {
  readonly qmp?: string;
  readonly to?: string;
  readonly uri?: string;
  readonly listenUri?: string;
  readonly join?: boolean;
  readonly postcopy?: string;
  readonly postcopyAfter?: string;
  readonly capability?: readonly string[];
  readonly parameter?: readonly string[];
  readonly maxBandwidth?: string;
  readonly downtimeLimit?: string;
  readonly keepSettings?: boolean;
  readonly recoverFor: string;
  readonly monitorTimeout: string;
  readonly json?: boolean;
}

/** @throws {UsageError} if an option makes no sense, or two do not go together */
export function parseMigrateOptions(options: MigrateOptions): MigrationPlan {
  const { uri, listenUri } = options;
  const source = monitor('--qmp', options.qmp);
  const destination = monitor('--to', options.to);
  if (source === destination) throw new UsageError(`--qmp and --to are the same monitor: ${source}`);
  if (listenUri !== undefined && uri === undefined) {
    throw new UsageError(
      '--listen-uri says where the destination listens; --uri must then say where the source connects',
    );
  }
  const changed = [options.capability, options.parameter, options.maxBandwidth, options.downtimeLimit];
  if (options.join === true && changed.some((option) => option !== undefined)) {
    throw new UsageError('--join takes a migration as it is: settings cannot be given with it');
  }
  return {
    source,
    destination,
    joins: options.join === true,
    uri: uri === undefined ? undefined : given('--uri', () => migrationUri(uri)),
    listenUri: listenUri === undefined ? undefined : given('--listen-uri', () => migrationUri(listenUri)),
    postcopy: switchPlan(options),
    settings: {
      capabilities: (options.capability ?? []).map(parseCapability),
      parameters: [...(options.parameter ?? []).map(parseParameter), ...ownParameters(options)],
    },
    keepsSettings: options.keepSettings === true,
    recoverForMs: given('--recover-for', () => parseDurationMs(options.recoverFor, 's')),
    monitorTimeoutMs: given('--monitor-timeout', () =>
      atLeastASecond(parseDurationMs(options.monitorTimeout, 's')),
    ),
  };
}

function monitor(option: string, text: string | undefined): string {
  if (text === undefined)
    throw new UsageError('Both monitors are needed: --qmp of the source, --to of the destination');
  return given(option, () => formatQmpAddress(parseQmpAddress(text)));
}

/** Of the forms that QEMU knows we check those that we know, too. */
function migrationUri(text: string): string {
  if (/^(vsock|rdma):./.test(text)) return text;
  parseMigrationUri(text);
  return text;
}

function switchPlan({ postcopy, postcopyAfter }: MigrateOptions): SwitchPlan {
  if (postcopyAfter !== undefined) {
    if (postcopy !== undefined) throw new UsageError('--postcopy and --postcopy-after do not go together');
    return { kind: 'after', afterMs: given('--postcopy-after', () => parseDurationMs(postcopyAfter, 'ms')) };
  }
  switch (postcopy) {
    case undefined:
    case 'never':
      return { kind: 'never' };
    case 'auto':
      return { kind: 'auto' };
    default:
      throw new UsageError(`--postcopy: must be auto or never, got "${postcopy}"`);
  }
}

function parseCapability(text: string): Wish<boolean> {
  const { name, value, side } = splitWish('--capability', text);
  return { name, value: given('--capability', () => parseSwitch(value)), ...side };
}

function parseParameter(text: string): Wish<ParameterValue> {
  const { name, value, side } = splitWish('--parameter', text);
  return { name, value: { text: value }, ...side };
}

function ownParameters({ maxBandwidth, downtimeLimit }: MigrateOptions): Wish<ParameterValue>[] {
  const wishes: Wish<ParameterValue>[] = [];
  const add = (name: string, value: number) => wishes.push({ name, value, side: 'source' });
  if (maxBandwidth !== undefined) {
    add(
      'max-bandwidth',
      given('--max-bandwidth', () => parseSize(maxBandwidth, 2 ** 20)),
    );
  }
  if (downtimeLimit !== undefined) {
    add(
      'downtime-limit',
      given('--downtime-limit', () => parseDurationMs(downtimeLimit, 'ms')),
    );
  }
  return wishes;
}

/** `[source:|destination:]name=value` */
function splitWish(option: string, text: string) {
  const [, side, name, value] = /^(?:(source|destination):)?([\w-]+)=(.*)$/s.exec(text) ?? [];
  if (name === undefined || value === undefined) {
    throw new UsageError(
      `${option}: must be NAME=VALUE, source:NAME=VALUE or destination:NAME=VALUE, got "${text}"`,
    );
  }
  return { name, value, side: side === undefined ? {} : { side: side as 'source' | 'destination' } };
}

function atLeastASecond(ms: number): number {
  if (ms < 1000) throw new RangeError('must be a second or more');
  return ms;
}

/** Names the option whose value was refused. */
function given<Value>(option: string, parse: () => Value): Value {
  try {
    return parse();
  } catch (error) {
    throw new UsageError(`${option}: ${(error as Error).message}`, { cause: error });
  }
}
