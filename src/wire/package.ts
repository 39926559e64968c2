/**
 * The package of a postcopy: a stream inside the stream that holds the device state.
 *
 *   POSTCOPY_LISTEN
 *   FULL section for each device   not delimited; no EOF and no description follow
 *   PING 3
 *   PING 0x42                      QEMU 10.2 and later, and we
 *   POSTCOPY_RUN                   unless it follows behind the package, as between two of ours
 *
 * Since its length is known the device sections can be taken out as a whole, by whoever knows none of the devices.
 * Source: QEMU migration/savevm.c, qemu_savevm_send_packaged(); migration/migration.c, postcopy_start().
 */
import { COMMAND_HEADER_BYTES, encodeCommand, encodePing, MigrationCommand, PingValue } from './commands.ts';
import { StreamError } from './stream-error.ts';

export const RUN_BYTES = COMMAND_HEADER_BYTES;

/** What every package begins with. */
export const PACKAGE_FIRST_BYTES = encodeCommand(MigrationCommand.POSTCOPY_LISTEN);

const RUN = encodeCommand(MigrationCommand.POSTCOPY_RUN);
const PINGS = [encodePing(PingValue.IN_PACKAGE), encodePing(PingValue.PACKAGE_LOADED)] as const;

const PACKAGE_LAST_BYTES = [[...PINGS, RUN], [PINGS[0], RUN], [RUN], PINGS].map((last) =>
  Buffer.concat(last),
);

/** @param lastBytes of a package, at least `RUN_BYTES` of them, if it has so many */
export function endsWithRun(lastBytes: Uint8Array): boolean {
  return Buffer.compare(lastBytes.subarray(-RUN_BYTES), RUN) === 0;
}

/** What a package consists of; positions are in the package. */
export interface OpenedPackage {
  /** The FULL sections as they are, sharing memory with the package. */
  readonly deviceSections: Uint8Array;
  readonly devicesAt: number;
  /** Where the commands after them begin. */
  readonly commandsAt: number;
}

/**
 * Takes a package apart.
 *
 * @param at stream byte of the package, for the error; without, that counts in the package
 * @throws {StreamError} `BAD_COMMAND` if it does not begin or end as it must
 */
export function openPackage(bytes: Uint8Array, at?: number): OpenedPackage {
  const fail = (what: string, position: number): never => {
    throw new StreamError('BAD_COMMAND', what, (at ?? 0) + position, at === undefined ? 'package' : 'stream');
  };
  const whole = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const devicesAt = PACKAGE_FIRST_BYTES.length;
  if (!whole.subarray(0, devicesAt).equals(PACKAGE_FIRST_BYTES)) {
    fail('The package must begin with POSTCOPY_LISTEN', 0);
  }
  for (const last of PACKAGE_LAST_BYTES) {
    const commandsAt = bytes.length - last.length;
    if (commandsAt < devicesAt || !whole.subarray(commandsAt).equals(last)) continue;
    return { deviceSections: bytes.subarray(devicesAt, commandsAt), devicesAt, commandsAt };
  }
  return fail(
    'The package must end with PING 3, maybe PING 0x42, and POSTCOPY_RUN if that does not follow PING 0x42 behind it',
    Math.max(0, bytes.length - RUN_BYTES),
  );
}
