/**
 * The package of a postcopy: a stream inside the stream that holds the device state.
 *
 *   POSTCOPY_LISTEN
 *   FULL section for each device   not delimited; no EOF and no description follow
 *   PING 3
 *   PING 0x42                      QEMU 10.2 and later
 *   POSTCOPY_RUN
 *
 * Since its length is known the device sections can be taken out as a whole, by whoever knows none of the devices.
 * Source: QEMU migration/savevm.c, qemu_savevm_send_packaged(); migration/migration.c, postcopy_start().
 */
import { COMMAND_HEADER_BYTES, encodeCommand, encodePing, MigrationCommand, PingValue } from './commands.ts';
import { StreamError } from './stream-error.ts';

const RUN_BYTES = COMMAND_HEADER_BYTES;

/** What every package begins with. */
export const PACKAGE_FIRST_BYTES = encodeCommand(MigrationCommand.POSTCOPY_LISTEN);

const PACKAGE_LAST_BYTES = [
  [encodePing(PingValue.IN_PACKAGE), encodePing(PingValue.PACKAGE_LOADED)],
  [encodePing(PingValue.IN_PACKAGE)],
  [],
].map((pings) => Buffer.concat([...pings, encodeCommand(MigrationCommand.POSTCOPY_RUN)]));

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
    'The package must end with PING 3, maybe PING 0x42, and POSTCOPY_RUN',
    Math.max(0, bytes.length - RUN_BYTES),
  );
}
