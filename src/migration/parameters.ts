/**
 * Parameters of a migration: numbers that may be changed at any time, also while it runs, by QEMU's names and units.
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
} as const satisfies Record<string, ParameterInfo>;

export type Parameter = keyof typeof PARAMETERS;
export type Parameters = Readonly<Record<Parameter, number>>;

export const DEFAULT_PARAMETERS: Parameters = Object.fromEntries(
  Object.entries(PARAMETERS).map(([name, info]) => [name, info.default]),
) as Parameters;

/** @throws {RangeError} if there is none of that name; the text lists those there are */
export function parameterNamed(name: string): Parameter {
  if (Object.hasOwn(PARAMETERS, name)) return name as Parameter;
  throw new RangeError(`No parameter is named "${name}"; there are: ${Object.keys(PARAMETERS).join(', ')}`);
}

/** @throws {RangeError} if the value is not a whole number within the parameter's bounds */
export function checkParameter(name: Parameter, value: number): number {
  const { minimum, maximum, unit } = PARAMETERS[name];
  if (!Number.isSafeInteger(value) || value < minimum || value > maximum) {
    throw new RangeError(
      `Parameter "${name}" must be a whole number of ${unit} from ${minimum} to ${maximum}, got ${value}`,
    );
  }
  return value;
}
