/**
 * Quantities as people read them. Programs get the plain numbers.
 */

const BYTE_UNITS = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB'] as const;

/** e.g. `4 KiB`, `1.5 GiB`; at most one decimal. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (Math.abs(value) >= 1024 && unit < BYTE_UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${oneDecimal(value)} ${BYTE_UNITS[unit]}`;
}

/** e.g. `128 MiB/s` */
export function formatBytesPerSecond(bytesPerSecond: number): string {
  return `${formatBytes(bytesPerSecond)}/s`;
}

/** e.g. `0.35 ms`, `12 ms`, `1.5 s`, `2 min 5 s` */
export function formatMs(ms: number): string {
  if (Math.abs(ms) < 1000) return `${threeDigits(ms)} ms`;
  if (Math.abs(ms) < 60_000) return `${threeDigits(ms / 1000)} s`;
  const seconds = Math.round(ms / 1000);
  return `${Math.trunc(seconds / 60)} min ${seconds % 60} s`;
}

/** e.g. `9.1 us`, then as `formatMs` from a millisecond on */
export function formatUs(us: number): string {
  return Math.abs(us) < 1000 ? `${threeDigits(us)} us` : formatMs(us / 1000);
}

/** Digits in groups of three, e.g. `28 000`. */
export function formatCount(count: number): string {
  return String(Math.round(count)).replace(/\B(?=(\d{3})+$)/g, ' ');
}

function oneDecimal(value: number): string {
  return String(Number(value.toFixed(1)));
}

/** Three significant digits, and never an exponent. */
function threeDigits(value: number): string {
  const size = Math.abs(value);
  return String(Number(value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 2)));
}
