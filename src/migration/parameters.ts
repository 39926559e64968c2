/**
 * Parameters of a migration, by QEMU's names and units.
 *
 * Numbers may be changed at any time, also while it runs. Names of TLS count for connections that are made later.
 */

export interface ParameterInfo {
  readonly default: number;
  readonly minimum: number;
  readonly maximum: number;
  readonly unit: 'ms' | 'bytes/second';
  /** What a bare number means to a person at the monitor: QEMU takes mebibytes for `max-bandwidth`. */
  readonly humanScale: number;
  readonly description: string;
}

const MIB = 2 ** 20;
const MAX_BANDWIDTH = Number.MAX_SAFE_INTEGER;

export const PARAMETERS = {
  'max-bandwidth': {
    default: 128 * MIB,
    minimum: 0,
    maximum: MAX_BANDWIDTH,
    unit: 'bytes/second',
    humanScale: MIB,
    description: 'Limit of precopy; 0 is no limit',
  },
  'max-postcopy-bandwidth': {
    default: 0,
    minimum: 0,
    maximum: MAX_BANDWIDTH,
    unit: 'bytes/second',
    humanScale: 1,
    description: 'Limit of what is pushed in postcopy, requested pages excepted; 0 is no limit',
  },
  'downtime-limit': {
    default: 300,
    minimum: 0,
    maximum: 2_000_000,
    unit: 'ms',
    humanScale: 1,
    description: 'Precopy completes once what remains fits into this pause at the measured bandwidth',
  },
  'x-postcopy-start-time': {
    default: 0,
    minimum: 0,
    maximum: 0xffff_ffff,
    unit: 'ms',
    humanScale: 1,
    description: 'Precopy switches to postcopy by itself after this time, if postcopy-ram is on; 0 is never',
  },
  'x-switchover-timeout': {
    default: 30_000,
    minimum: 0,
    maximum: 0xffff_ffff,
    unit: 'ms',
    humanScale: 1,
    description:
      'A destination that has not loaded the package of postcopy by then is given up, and the guest goes on here; 0 is never',
  },
  'x-reconnect-ms': {
    default: 0,
    minimum: 0,
    maximum: 3_600_000,
    unit: 'ms',
    humanScale: 1,
    description:
      'After an interruption in postcopy both sides find each other again by themselves, with waits of up to this; 0 is never',
  },
  'x-peer-timeout': {
    default: 60_000,
    minimum: 3000,
    maximum: 0x7fff_ffff,
    unit: 'ms',
    humanScale: 1,
    description: 'The other side, or the network to it, is given up when nothing is heard of it for so long',
  },
} as const satisfies Record<string, ParameterInfo>;

/** Parameters that name something; empty by default, which is nothing. */
export const TEXT_PARAMETERS = {
  'tls-creds': 'Object with the credentials that protect the connection',
  'tls-hostname':
    "Name that the destination's certificate must have, if it is not the host that is connected to",
  'tls-authz': 'Object that says which sources may come, if not all that are verified',
} as const satisfies Record<string, string>;

export type NumericParameter = keyof typeof PARAMETERS;
export type TextParameter = keyof typeof TEXT_PARAMETERS;
export type Parameter = NumericParameter | TextParameter;
export type Parameters = Readonly<Record<NumericParameter, number> & Record<TextParameter, string>>;

export const DEFAULT_PARAMETERS: Parameters = Object.fromEntries([
  ...Object.entries(PARAMETERS).map(([name, info]) => [name, info.default]),
  ...Object.keys(TEXT_PARAMETERS).map((name) => [name, '']),
]) as Parameters;

export const PARAMETER_NAMES = [...Object.keys(PARAMETERS), ...Object.keys(TEXT_PARAMETERS)] as Parameter[];

export function isTextParameter(name: Parameter): name is TextParameter {
  return Object.hasOwn(TEXT_PARAMETERS, name);
}

/** @throws {RangeError} if there is none of that name; the text lists those there are */
export function parameterNamed(name: string): Parameter {
  const parameter = PARAMETER_NAMES.find((each) => each === name);
  if (parameter !== undefined) return parameter;
  throw new RangeError(`No parameter is named "${name}"; there are: ${PARAMETER_NAMES.join(', ')}`);
}

/**
 * @param value null is the default of a name
 * @throws {RangeError} if the value is no text, or no whole number within the parameter's bounds
 */
export function checkParameter(name: Parameter, value: unknown): number | string {
  if (isTextParameter(name)) {
    if (typeof value === 'string' || value === null) return value ?? '';
    throw new RangeError(`Parameter "${name}" must be a name, got ${value}`);
  }
  const { minimum, maximum, unit } = PARAMETERS[name];
  if (!Number.isSafeInteger(value) || (value as number) < minimum || (value as number) > maximum) {
    throw new RangeError(
      `Parameter "${name}" must be a whole number of ${unit} from ${minimum} to ${maximum}, got ${value}`,
    );
  }
  return value as number;
}
