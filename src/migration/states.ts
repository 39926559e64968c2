/**
 * The states of a migration, by QEMU's names (`MigrationStatus` of QMP), and the moves between them.
 *
 *   source       none → setup → active → device → completed            precopy
 *                                        device → postcopy-device → postcopy-active → completed
 *                                        device → postcopy-active (a destination that runs the guest unasked)
 *                                                 postcopy-active → postcopy-paused (connection lost, or migrate-pause)
 *                                                 postcopy-paused → postcopy-recover-setup → postcopy-recover (connecting;
 *                                                                   exchanging bitmaps) → postcopy-active, or paused again
 *                before the switch: → cancelling → cancelled, → failed; the guest runs on at the source
 *   destination  none → setup → active → completed
 *                               active → postcopy-device → postcopy-active → completed | postcopy-paused
 *                                        postcopy-paused → postcopy-recover → postcopy-active, or paused again
 *                before the guest runs: → failed
 *
 * `device` is the window in which the source's guest stands still and its device state is under way: until the last
 * byte of it is out, the source can take its guest back. In `postcopy-device` the destination loads the device state; the
 * source can still take its guest back, until it has said RUN.
 */

export type MigrationStatus =
  | 'none'
  | 'setup'
  | 'active'
  | 'device'
  | 'postcopy-device'
  | 'postcopy-active'
  | 'postcopy-paused'
  | 'postcopy-recover-setup'
  | 'postcopy-recover'
  | 'completed'
  | 'failed'
  | 'cancelling'
  | 'cancelled';

/** Legal moves at the source. */
export const SOURCE_MOVES: Readonly<Record<MigrationStatus, readonly MigrationStatus[]>> = {
  none: ['setup'],
  setup: ['active', 'failed', 'cancelling'],
  active: ['device', 'failed', 'cancelling'],
  device: ['postcopy-device', 'postcopy-active', 'completed', 'failed', 'cancelling'],
  'postcopy-device': ['postcopy-active', 'failed', 'cancelling'],
  'postcopy-active': ['postcopy-paused', 'completed', 'failed'],
  // `failed`: an operator has found that the guest never ran at the destination, and lets it run on here.
  'postcopy-paused': ['postcopy-recover-setup', 'failed'],
  'postcopy-recover-setup': ['postcopy-recover', 'postcopy-paused'],
  'postcopy-recover': ['postcopy-active', 'postcopy-paused'],
  completed: ['setup'],
  failed: ['setup'],
  cancelling: ['cancelled'],
  cancelled: ['setup'],
};

/** Legal moves at the destination. */
export const DESTINATION_MOVES: Readonly<Record<MigrationStatus, readonly MigrationStatus[]>> = {
  none: ['setup'],
  setup: ['active', 'failed'],
  active: ['postcopy-device', 'completed', 'failed'],
  device: [],
  'postcopy-device': ['postcopy-active', 'failed'],
  'postcopy-active': ['postcopy-paused', 'completed'],
  'postcopy-paused': ['postcopy-recover'],
  'postcopy-recover-setup': [],
  'postcopy-recover': ['postcopy-active', 'postcopy-paused'],
  completed: [],
  failed: [],
  cancelling: [],
  cancelled: [],
};

/** Where a destination is in postcopy: QEMU's incoming sub-states, in the order they are entered. */
export type PostcopyIncomingState = 'none' | 'advise' | 'discard' | 'listening' | 'running' | 'end';

/** True while a migration holds the guest's memory: a second one must be refused. */
export function isMigrationRunning(status: MigrationStatus): boolean {
  return ['setup', 'active', 'device', 'cancelling'].includes(status) || status.startsWith('postcopy-');
}

/** True while the two sides find each other again after an interruption. */
export function isRecovering(status: MigrationStatus): boolean {
  return status === 'postcopy-recover-setup' || status === 'postcopy-recover';
}
