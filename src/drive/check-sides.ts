/**
 * What must hold before a migration may start: a guest at the source, a destination that waits, and one machine at both.
 */
import { type MachineIdentity, whyNotAlike } from './machine-identity.ts';
import { isPostcopy, isUnderWay } from './stages.ts';

/** The migration cannot be started; nothing was changed that is not given back. */
export class NotStartedError extends Error {
  override readonly name = 'NotStartedError';
}

/** What a side says before the migration. */
export interface SideState {
  readonly runState: string;
  /** `none` if it has had no migration. */
  readonly status: string;
}

/** States of a guest that can move. QEMU moves one that stands still because of an I/O error, too. */
const STARTABLE = ['running', 'paused', 'prelaunch', 'suspended', 'io-error'];

/** @throws {NotStartedError} */
export function checkStates(source: SideState, destination: SideState): void {
  if (isUnderWay(source.status)) {
    const hint = `: --join takes it over${isPostcopy(source.status) ? '' : ', "migrate_cancel" at its monitor ends it'}`;
    throw new NotStartedError(`The source has a migration under way already ("${source.status}")${hint}`);
  }
  if (!STARTABLE.includes(source.runState)) {
    throw new NotStartedError(
      `The source has no guest that could move: it is "${source.runState}"${sourceHint(source.runState)}`,
    );
  }
  if (destination.runState !== 'inmigrate') {
    throw new NotStartedError(
      `The destination does not wait for a migration: it is "${destination.runState}"; start it with -incoming defer (ours: --incoming defer)`,
    );
  }
  if (!['none', 'setup'].includes(destination.status)) {
    throw new NotStartedError(
      `The destination has had a migration already ("${destination.status}"): start it again`,
    );
  }
}

/** Whether there is a migration that can be taken over. @throws {NotStartedError} */
export function checkUnderWay(source: SideState): void {
  if (isUnderWay(source.status)) return;
  throw new NotStartedError(
    `The source has no migration under way that could be joined: its migration is "${source.status}", its guest "${source.runState}"`,
  );
}

/** @throws {NotStartedError} */
export function checkMachines(source: MachineIdentity, destination: MachineIdentity): void {
  const why = whyNotAlike(source, destination);
  if (why !== undefined) throw new NotStartedError(why);
}

function sourceHint(runState: string): string {
  if (runState === 'postmigrate')
    return ', its guest has moved away already (if it has not, "cont" lets it run here)';
  return runState === 'inmigrate'
    ? ': it waits for a migration itself; are --qmp and --to the wrong way round?'
    : '';
}
