/**
 * What a test must take away again: the last that was made goes first, and one failure does not keep the others.
 */
import type { TestContext } from 'node:test';

type Action = () => unknown;

const actionsOf = new WeakMap<TestContext, Action[]>();

/** Runs the action when the test has ended, however it ended. */
export function atEnd(t: TestContext, action: Action): void {
  const known = actionsOf.get(t);
  if (known !== undefined) {
    known.push(action);
    return;
  }
  const actions = [action];
  actionsOf.set(t, actions);
  t.after(async () => {
    const errors: unknown[] = [];
    for (const each of actions.reverse()) {
      try {
        await each();
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) throw errors[0];
  });
}
