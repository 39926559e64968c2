/**
 * A time as it is typed on the command line.
 */

/**
 * `500ms`, `1.5s`, `10m` or `1h`, in milliseconds.
 *
 * @param unit of a bare number
 * @throws {RangeError} if the text is no duration
 */
export function parseDurationMs(text: string, unit: 'ms' | 's'): number {
  const [, digits, suffix = unit] = /^(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h)?$/.exec(text) ?? [];
  const scale: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };
  const ms = Number(digits) * (scale[suffix] ?? Number.NaN);
  if (!Number.isFinite(ms)) throw new RangeError(`must be a time such as 500ms, 1.5s or 10m, got "${text}"`);
  return Math.round(ms);
}
