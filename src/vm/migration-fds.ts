/**
 * The eventfds that wake the threads of one migration: opened together, so that a process without descriptors begins nothing.
 */
import { closeFd, dupCloexec } from '../linux/fd.ts';
import { createEventfd } from '../linux/poll.ts';
import { systemErrorText } from '../linux/system-error-text.ts';
import { createSharedFaultThread, type SharedFaultThread } from '../threads/fault-thread-control.ts';
import { VmError } from './vm.ts';

export interface MigrationFds {
  /** Wakes the migration thread. */
  readonly wakeFd: number;
  /** The same, for the machine's thread to signal and to give back. */
  readonly machineWakeFd: number;
  readonly faultThread: SharedFaultThread | undefined;
}

/** @throws {VmError} if there are not enough descriptors; none is open then */
export function openMigrationFds(hasFaultThread: boolean): MigrationFds {
  const opened: number[] = [];
  const keep = (fd: number) => {
    opened.push(fd);
    return fd;
  };
  try {
    const wakeFd = keep(createEventfd());
    const machineWakeFd = keep(dupCloexec(wakeFd));
    return { wakeFd, machineWakeFd, faultThread: hasFaultThread ? createSharedFaultThread() : undefined };
  } catch (error) {
    for (const fd of opened) closeFd(fd);
    throw new VmError(`The threads of the migration cannot be started: ${systemErrorText(error)}`, {
      cause: error,
    });
  }
}
