/**
 * What can go wrong with a monitor: it refuses a command, or there is no talking to it.
 */

/** A monitor refused a command; the message is its own. */
export class QmpCommandError extends Error {
  override readonly name = 'QmpCommandError';
  readonly command: string;
  /** `GenericError`, `CommandNotFound`, … */
  readonly errorClass: string;

  constructor(command: string, errorClass: string, description: string) {
    super(description);
    this.command = command;
    this.errorClass = errorClass;
  }
}

/**
 * Why there is no talking to a monitor:
 *
 *   refused     nobody listens at the address
 *   no-greeting it took the connection and said nothing: another client has it, or it hangs
 *   not-qmp     what it said is not QMP
 *   closed      it closed the connection, or the connection broke
 *   no-answer   it did not answer a command in time; the connection is still there
 */
export type QmpConnectionFailure = 'refused' | 'no-greeting' | 'not-qmp' | 'closed' | 'no-answer';

/** There is no talking to a monitor; `failure` says in which way. */
export class QmpConnectionError extends Error {
  override readonly name = 'QmpConnectionError';
  readonly failure: QmpConnectionFailure;

  constructor(failure: QmpConnectionFailure, message: string, options?: ErrorOptions) {
    super(message, options);
    this.failure = failure;
  }
}
