/**
 * A trace event as one line of text: time, name, and its fields as `key=value`.
 *
 *   1234.567 migrate_set_state side=source from=setup to=active
 */
import type { TraceName } from './trace-events.ts';

/** @param atMs time of the event in milliseconds; printed to the microsecond */
export function formatTraceEvent(
  name: TraceName,
  fields: Readonly<Record<string, unknown>>,
  atMs: number,
): string {
  const pairs = Object.entries(fields).map(([key, value]) => ` ${key}=${formatValue(value)}`);
  return `${atMs.toFixed(3)} ${name}${pairs.join('')}`;
}

/** Plain words stand as they are; other strings are quoted, so that a line can be split at its spaces. */
function formatValue(value: unknown): string {
  if (typeof value !== 'string') return String(value);
  return /^[^\s"=\p{Cc}]+$/u.test(value) ? value : JSON.stringify(value);
}
