/**
 * The lines that the Linux guest of .ci/linux-guest.sh writes ten times a second, and what they prove about a move.
 *
 * POSTCOPY_TEST_LINUX names the folder that the script has filled.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { type Skippable, skipUnless } from './requirements.ts';

const FOLDER = process.env['POSTCOPY_TEST_LINUX'] ?? '';

/** A line is due every 100 ms of guest time; what the guest waits for pages, or for its host, comes on top. */
const MAX_STEP_SECONDS = 10;

/** How long Linux may take to its first line. */
export const BOOT_MS = 120_000;

export const LINUX_KERNEL = join(FOLDER, 'vmlinuz');
export const LINUX_INITRD = join(FOLDER, 'initrd.gz');
export const LINUX_COMMAND_LINE = 'console=ttyS0';

export interface Count {
  readonly count: number;
  /** Seconds since boot, by /proc/uptime. */
  readonly uptime: number;
  /** Seconds since 1970. */
  readonly date: number;
}

/** @returns whether there is a Linux guest; if not, the test has been marked as skipped */
export function needsLinux(t: Skippable): boolean {
  const isThere = FOLDER !== '' && existsSync(LINUX_KERNEL) && existsSync(LINUX_INITRD);
  return skipUnless(
    t,
    'Linux guest',
    isThere,
    'set POSTCOPY_TEST_LINUX to a folder made by .ci/linux-guest.sh',
  );
}

/** The lines that are whole; a move may cut one in two, which the texts of both consoles together mend. */
export function countsIn(text: string): Count[] {
  return [...text.matchAll(/^count=(\d+) uptime=([\d.]+) date=(\d+)\r?\n/gm)].map(
    ([, count, uptime, date]) => ({ count: Number(count), uptime: Number(uptime), date: Number(date) }),
  );
}

/**
 * One Linux wrote these lines, all of them in order, and its clocks neither jumped nor went back.
 *
 * @param consoles texts of the serial consoles, in the order in which the guest ran there
 */
export function assertOneLinux(...consoles: readonly string[]): void {
  const counts = countsIn(consoles.join(''));
  for (const [index, count] of counts.entries()) {
    const last = counts[index - 1];
    if (last === undefined) continue;
    const where = `${JSON.stringify(last)} is followed by ${JSON.stringify(count)}`;
    assert.equal(count.count, last.count + 1, `Lines are lost or doubled: ${where}`);
    assert(count.uptime >= last.uptime, `Uptime went back: ${where}`);
    assert(count.uptime < last.uptime + MAX_STEP_SECONDS, `Uptime jumped: ${where}`);
    assert(count.date >= last.date, `The date went back: ${where}`);
    const driftSeconds = count.date - last.date - (count.uptime - last.uptime);
    assert(Math.abs(driftSeconds) < 2, `The two clocks came apart: ${where}`);
  }
}
