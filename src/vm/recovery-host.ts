/**
 * What the recovery of an interrupted postcopy needs of the virtual machine, at either side.
 */
import type { MigrationStatus } from '../migration/states.ts';
import type { Channel } from '../transport/channel.ts';
import type { Listener } from '../transport/listener.ts';
import { VmError } from './vm.ts';

export interface RecoveryHost {
  readonly status: MigrationStatus;
  /** Parameter `x-reconnect-ms`: the longest wait between two attempts to find the other side again; 0 is not by itself. */
  readonly reconnectMs: number;
  readonly isClosed: boolean;
  /** @param isTold whether an operator should read the error now; it is kept in any case */
  setStatus(status: MigrationStatus, error: string | undefined, isTold?: boolean): void;
  message(text: string): void;
  connect(uri: string, signal: AbortSignal): Promise<Channel>;
  listen(uri: string): Promise<Listener>;
}

/** The thread that goes on over another connection. */
export interface RecoverableMigration {
  /** @throws {VmError} with the engine's reason if it refuses; the channel is closed in any case then */
  recover(channel: Channel): Promise<void>;
  /** Breaks the present connection off. @throws {VmError} if there is none */
  breakOff(why?: string): Promise<void>;
}

export function noReturnPath(uri: string): VmError {
  return new VmError(
    `Recovery needs a return path, which "${uri}" has not: use tcp:, unix: or a socket as fd:`,
  );
}

const FIRST_WAIT_MS = 100;

/** The wait before the next attempt: twice that before the last one, up to a limit. */
export function backOffMs(failures: number, longestMs: number): number {
  return Math.min(longestMs, FIRST_WAIT_MS * 2 ** Math.min(failures, 20));
}
