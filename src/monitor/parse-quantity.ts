/**
 * Quantities as people type them: sizes with K, M, G, T, parameters in their units, addresses in hexadecimal.
 */
import { checkParameter, isTextParameter, PARAMETERS, type Parameter } from '../migration/parameters.ts';

const SUFFIX_SCALES: Readonly<Record<string, number>> = {
  '': 1,
  b: 1,
  k: 2 ** 10,
  m: 2 ** 20,
  g: 2 ** 30,
  t: 2 ** 40,
};

/**
 * @param text e.g. `256M`, `1.5G`, `0x1000`; suffixes are powers of 1024, of either case
 * @param bareScale what a number without a suffix counts, in bytes
 * @returns whole bytes
 * @throws {RangeError} if it is no size, is negative, or is no whole number of bytes below 2^53
 */
export function parseSize(text: string, bareScale = 1): number {
  const match = /^(?:(0x[0-9a-f]+)|(\d+(?:\.\d+)?)([bkmgt]?))$/i.exec(text);
  const suffix = match?.[3]?.toLowerCase() ?? '';
  const scale = suffix === '' ? bareScale : (SUFFIX_SCALES[suffix] as number);
  const bytes = match === null ? Number.NaN : Number(match[1] ?? match[2]) * scale;
  if (!Number.isSafeInteger(bytes)) {
    throw new RangeError(
      `Size must be a whole number of bytes with an optional suffix K, M, G or T, got "${text}"`,
    );
  }
  return bytes;
}

/**
 * The value of a parameter as a person types it: a rate may have a suffix, a bare number counts in the parameter's
 * human scale.
 *
 * @throws {RangeError} if it is no number or out of bounds
 */
export function parseParameterValue(name: Parameter, text: string): number | string {
  if (isTextParameter(name)) return checkParameter(name, text);
  const { unit, humanScale } = PARAMETERS[name];
  if (unit === 'bytes/second') return checkParameter(name, parseSize(text, humanScale));
  if (!/^\d+$/.test(text)) {
    throw new RangeError(`Parameter "${name}" must be a whole number of ${unit}, got "${text}"`);
  }
  return checkParameter(name, Number(text) * humanScale);
}

/** @throws {RangeError} if the text is neither `on` nor `off` */
export function parseSwitch(text: string): boolean {
  if (text !== 'on' && text !== 'off') throw new RangeError(`Expected 'on' or 'off', got "${text}"`);
  return text === 'on';
}
