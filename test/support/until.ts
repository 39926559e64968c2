/**
 * Waiting in tests: for a condition, or for a promise, and never longer than to a deadline.
 *
 * Deadlines are there to turn a hang into a failure with a message. They are generous: hosts of tests are slow and shared.
 */
import { setTimeout as sleep } from 'node:timers/promises';

export const DEADLINE_MS = 30_000;
const POLL_MS = 5;

/** Says what there is instead of what was waited for. */
type Describe = () => string;

/**
 * Asks again and again until the answer is neither undefined nor false.
 *
 * @throws {Error} `Waited 30 s for …`, at the deadline
 */
export async function until<Value>(
  what: string,
  ask: () => Value | undefined | false | Promise<Value | undefined | false>,
  describe: Describe = () => '',
  deadlineMs = DEADLINE_MS,
): Promise<Value> {
  const endsAtMs = performance.now() + deadlineMs;
  for (;;) {
    const answer = await inTime(what, Promise.resolve(ask()), describe, deadlineMs);
    if (answer !== undefined && answer !== false) return answer;
    if (performance.now() > endsAtMs) throw late(what, describe, deadlineMs);
    await sleep(POLL_MS);
  }
}

/** The outcome of a promise, or an error at the deadline. */
export async function inTime<Value>(
  what: string,
  promise: Promise<Value>,
  describe: Describe = () => '',
  deadlineMs = DEADLINE_MS,
): Promise<Value> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(late(what, describe, deadlineMs)), deadlineMs);
  });
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    clearTimeout(timer);
  }
}

function late(what: string, describe: Describe, deadlineMs: number): Error {
  const instead = describe();
  return new Error(`Waited ${deadlineMs / 1000} s for ${what}${instead === '' ? '' : `\n${instead}`}`);
}
