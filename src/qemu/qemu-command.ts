/**
 * The command that starts a QEMU for a guest of ours: which of its options are not the caller's to give.
 */

/** The command cannot be used, or QEMU did not come up; the text is for whoever typed it. */
export class QemuStartError extends Error {
  override readonly name = 'QemuStartError';
}

/** Options that say where a guest comes from, which is our part, or that take the process away from us. */
const REFUSED_OPTIONS: Readonly<Record<string, string>> = {
  incoming: 'the guest comes from the snapshot: leave it out',
  loadvm: 'the guest comes from the snapshot: leave it out',
  daemonize: 'postcopy feeds and watches this process: let postcopy itself go into the background',
};

/** @throws {QemuStartError} if the command says something that is ours to say */
export function checkQemuCommand(command: readonly string[]): void {
  for (const argument of command.slice(1)) {
    const why = REFUSED_OPTIONS[argument.replace(/^--?/, '')];
    if (argument.startsWith('-') && why !== undefined) {
      throw new QemuStartError(`Option "${argument}" of QEMU cannot be used here: ${why}`);
    }
  }
}
