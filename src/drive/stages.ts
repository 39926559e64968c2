/**
 * The states of `query-migrate`, of all versions of QEMU and of ours, by what can be done in them.
 */

/** The guest is the source's, or can be taken back: what is under way can be cancelled. */
const BEFORE_SWITCH = ['setup', 'active', 'pre-switchover', 'device', 'wait-unplug'] as const;
const RECOVERING = ['postcopy-recover-setup', 'postcopy-recover'] as const;
const ENDED = ['completed', 'failed', 'cancelled'] as const;

export function isBeforeSwitch(status: string): boolean {
  return (BEFORE_SWITCH as readonly string[]).includes(status);
}

/** The guest may be at the destination while pages are at the source. */
export function isPostcopy(status: string): boolean {
  return status.startsWith('postcopy-');
}

export function isRecovering(status: string): boolean {
  return (RECOVERING as readonly string[]).includes(status);
}

export function isEnded(status: string): boolean {
  return (ENDED as readonly string[]).includes(status);
}

/** A migration is there that has not ended. */
export function isUnderWay(status: string): boolean {
  return isBeforeSwitch(status) || isPostcopy(status) || status === 'cancelling' || status === 'colo';
}
