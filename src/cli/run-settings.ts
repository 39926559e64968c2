/**
 * The options of `postcopy run`, as typed, to what they mean.
 */
import { type Capability, capabilityNamed } from '../migration/capabilities.ts';
import { type Parameters, parameterNamed } from '../migration/parameters.ts';
import { parseParameterValue, parseSize, parseSwitch } from '../monitor/parse-quantity.ts';
import { type MonitorTarget, parseMonitorTarget } from '../monitor/target.ts';
import { matchTraceNames } from '../telemetry/trace-names.ts';
import type { ObjectProperties } from '../tls/object-properties.ts';
import { parseMigrationUri } from '../transport/parse-uri.ts';
import type { VirtualMachineOptions } from '../vm/virtual-machine.ts';
import { BUILT_IN_GUESTS, type BuiltInGuest, guestImagePath } from './package-info.ts';
import { parseSerialTarget, type SerialTarget } from './serial-console.ts';
import { parseObjects } from './tls-options.ts';
import { UsageError } from './usage-error.ts';

/** As the command line gave them. */
export interface RunOptions {
  readonly memory: string;
  readonly guest?: string;
  readonly kernel?: string;
  readonly initrd?: string;
  readonly append?: string;
  readonly bios?: string;
  readonly vgaBios?: string;
  readonly hda?: string;
  readonly cdrom?: string;
  readonly incoming?: string;
  readonly paused?: boolean;
  readonly dirtyTracking: string;
  readonly monitor?: string;
  readonly qmp: string;
  readonly serial?: string;
  readonly trace?: readonly string[];
  readonly traceFile?: string;
  readonly capability?: readonly string[];
  readonly parameter?: readonly string[];
  readonly reconnect?: boolean;
  readonly object?: readonly string[];
}

export interface RunSettings {
  /** `incoming` is `defer` or absent here; the address is `incomingUri`. */
  readonly machine: VirtualMachineOptions;
  /** Where to wait for a migration as soon as capabilities and parameters are set. */
  readonly incomingUri: string | undefined;
  readonly monitor: MonitorTarget;
  readonly qmp: MonitorTarget;
  readonly serial: SerialTarget;
  readonly tracePatterns: readonly string[];
  readonly traceFile: string | undefined;
  readonly capabilities: Partial<Record<Capability, boolean>>;
  readonly parameters: Partial<Parameters>;
  /** Made before anything names them. */
  readonly objects: readonly ObjectProperties[];
}

/** What `--reconnect` is short for: soon enough for a guest that waits, and no burden for a host that is gone. */
const RECONNECT_MS = 5000;
const MIB = 2 ** 20;
const DIRTY_TRACKING = ['auto', 'async', 'sync'] as const;

/**
 * @param isTerminal whether a person sits at standard input: they get the human monitor unless they say otherwise
 * @throws {UsageError} if an option makes no sense, or two do not go together
 */
export function parseRunOptions(options: RunOptions, isTerminal: boolean): RunSettings {
  const monitorText = options.monitor ?? defaultMonitor(options, isTerminal);
  const serialText =
    options.serial ?? (monitorText === 'stdio' || options.qmp === 'stdio' ? 'null' : 'stdio');
  const atStdio = Object.entries({ monitor: monitorText, qmp: options.qmp, serial: serialText })
    .filter(([, target]) => target === 'stdio')
    .map(([name]) => `--${name}`);
  if (atStdio.length > 1) throw new UsageError(`Only one of ${atStdio.join(' and ')} can be stdio`);
  const tracePatterns = options.trace ?? [];
  for (const pattern of tracePatterns) {
    if (matchTraceNames(pattern).length === 0) {
      throw new UsageError(`--trace: no trace point matches "${pattern}"; "info trace-events" lists them`);
    }
  }
  return {
    machine: machineOptions(options),
    incomingUri: incomingUriOf(options.incoming),
    monitor: given('--monitor', () => parseMonitorTarget(monitorText)),
    qmp: given('--qmp', () => parseMonitorTarget(options.qmp)),
    serial: given('--serial', () => parseSerialTarget(serialText)),
    tracePatterns,
    traceFile: options.traceFile,
    capabilities: Object.fromEntries((options.capability ?? []).map(parseCapability)),
    parameters: {
      ...(options.reconnect === true && { 'x-reconnect-ms': RECONNECT_MS }),
      ...Object.fromEntries((options.parameter ?? []).map(parseParameter)),
    },
    objects: parseObjects(options.object),
  };
}

function incomingUriOf(text: string | undefined): string | undefined {
  if (text === undefined || text === 'defer') return undefined;
  given('--incoming', () => parseMigrationUri(text));
  return text;
}

function defaultMonitor({ serial, qmp }: RunOptions, isTerminal: boolean): string {
  return isTerminal && serial !== 'stdio' && qmp !== 'stdio' ? 'stdio' : 'none';
}

function machineOptions(options: RunOptions): VirtualMachineOptions {
  if (options.guest !== undefined && options.kernel !== undefined) {
    throw new UsageError('--guest and --kernel do not go together');
  }
  const kernelPath = options.guest === undefined ? options.kernel : guestKernel(options.guest);
  if (kernelPath === undefined && !options.hda && !options.cdrom && !options.incoming) {
    throw new UsageError('Nothing to run: give --guest, --kernel, --hda, --cdrom or --incoming');
  }
  const memoryBytes = given('--memory', () => parseSize(options.memory, MIB));
  if (memoryBytes === 0) throw new UsageError('--memory: must be more than nothing');
  return {
    memoryBytes,
    dirtyTracking: given('--dirty-tracking', () => oneOf(DIRTY_TRACKING, options.dirtyTracking)),
    isPaused: options.paused === true,
    ...(kernelPath !== undefined && { kernelPath }),
    ...(options.initrd !== undefined && { initrdPath: options.initrd }),
    ...(options.append !== undefined && { commandLine: options.append }),
    ...(options.bios !== undefined && { biosPath: options.bios }),
    ...(options.vgaBios !== undefined && { vgaBiosPath: options.vgaBios }),
    ...(options.hda !== undefined && { hardDiskPath: options.hda }),
    ...(options.cdrom !== undefined && { cdromPath: options.cdrom }),
    ...(options.incoming !== undefined && { incoming: 'defer' }),
  };
}

function guestKernel(name: string): string {
  return guestImagePath(given('--guest', () => oneOf<BuiltInGuest>(BUILT_IN_GUESTS, name)));
}

function parseCapability(text: string): [Capability, boolean] {
  const [name, value] = splitAssignment('--capability', text);
  return given('--capability', () => [capabilityNamed(name), parseSwitch(value)]);
}

function parseParameter(text: string): [name: string, value: number | string] {
  const [name, value] = splitAssignment('--parameter', text);
  return given('--parameter', () => {
    const parameter = parameterNamed(name);
    return [parameter, parseParameterValue(parameter, value)];
  });
}

function splitAssignment(option: string, text: string): [name: string, value: string] {
  const at = text.indexOf('=');
  if (at === -1) throw new UsageError(`${option}: must be NAME=VALUE, got "${text}"`);
  return [text.slice(0, at), text.slice(at + 1)];
}

function oneOf<Word extends string>(words: readonly Word[], text: string): Word {
  const word = words.find((each) => each === text);
  if (word === undefined) throw new RangeError(`must be ${words.join(', ')}, got "${text}"`);
  return word;
}

/** Names the option whose value was refused. */
function given<Value>(option: string, parse: () => Value): Value {
  try {
    return parse();
  } catch (error) {
    throw new UsageError(`${option}: ${(error as Error).message}`, { cause: error });
  }
}
