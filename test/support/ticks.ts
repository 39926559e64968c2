/**
 * The lines that a guest of guests/ writes ten times a second, and what they prove about a move.
 */
import assert from 'node:assert/strict';

export interface Tick {
  readonly tick: number;
  readonly pass: number;
  /** As text, hexadecimal. */
  readonly nonce: string;
  /** Guest time since boot. */
  readonly ms: number;
}

const LINE = /tick=(?<tick>\d+) pass=(?<pass>\d+) nonce=(?<nonce>[0-9A-F]{8}) ms=(?<ms>\d+)\n/g;

/** @param text of a serial console; a line that is not whole yet is left out */
export function parseTicks(text: string): Tick[] {
  return [...text.matchAll(LINE)].map(({ groups = {} }) => ({
    tick: Number(groups['tick']),
    pass: Number(groups['pass']),
    nonce: String(groups['nonce']),
    ms: Number(groups['ms']),
  }));
}

/**
 * One guest wrote these lines, in this order and all of them: it neither started again, nor went back, nor skipped, nor
 * did its clock.
 *
 * @param consoles texts of the serial consoles, in the order in which the guest ran there; a move may cut a line in two
 */
export function assertOneGuest(...consoles: readonly string[]): void {
  const ticks = parseTicks(consoles.join(''));
  for (const [index, tick] of ticks.entries()) {
    const last = ticks[index - 1];
    if (last === undefined) continue;
    const where = `${JSON.stringify(last)} is followed by ${JSON.stringify(tick)}`;
    assert.equal(tick.nonce, last.nonce, `Another guest: ${where}`);
    assert.equal(tick.tick, last.tick + 1, `Lines are lost or doubled: ${where}`);
    assert(tick.pass >= last.pass, `The guest went back: ${where}`);
    assert(tick.ms > last.ms, `Guest time stood or went back: ${where}`);
    assert(tick.ms < last.ms + MAX_STEP_MS, `Guest time jumped: ${where}`);
  }
}

/** A line is due every 100 ms of guest time; a slow host, or a page that is waited for, delays it. */
const MAX_STEP_MS = 10_000;
