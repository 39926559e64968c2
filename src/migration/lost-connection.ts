/**
 * What the source tells its operator when the connection is lost after the guest may have left: where it is, what is only
 * here, and what to do.
 */

export const LOOK_THERE =
  'It may run the guest: look there, and continue here with "cont" only if it does not';
export const HOW_TO_RECOVER = 'migrate_recover at the destination, then "migrate -r" here';

/** What ends a connection that nothing is wrong with, unless another reason is given. */
export const BROKEN_OFF = 'broken off by migrate-pause';

export interface LostConnection {
  readonly why: string;
  /** The destination only fetches: it runs no guest. */
  readonly isPulled: boolean;
  readonly isRecoverable: boolean;
  /** The destination has come to RUN. */
  readonly isGuestGone: boolean;
  readonly wasRecovering: boolean;
  /** Pages that have not been sent. */
  readonly remainingPages: number;
}

export function describeLostConnection(lost: LostConnection): string {
  const { why, isPulled, isRecoverable, isGuestGone, wasRecovering, remainingPages } = lost;
  if (isPulled) return `Connection lost: ${why}`;
  const recover = isRecoverable ? `, and recover the migration: ${HOW_TO_RECOVER}` : '';
  if (!isGuestGone) {
    const orRecover = isRecoverable ? `. If it does, recover the migration: ${HOW_TO_RECOVER}` : '';
    return `Connection lost while the guest was handed over: ${why}. ${LOOK_THERE}${orRecover}`;
  }
  const what = wasRecovering ? 'Recovery failed' : 'Connection lost in postcopy';
  if (remainingPages === 0) {
    const sent = 'Every page has been sent, but the destination has not said that it has them';
    const advice = 'If it says "completed", this process may end; else keep it: its memory is the only copy';
    return `${what}: ${why}. ${sent}. ${advice}${recover}`;
  }
  const where = `The guest is at the destination; at least ${remainingPages} pages of it are only here`;
  return `${what}: ${why}. ${where}. Keep this process: its memory is the only copy of them${recover}`;
}
