/**
 * Whether the guest of a snapshot ran when it was saved: QEMU's `globalstate`, among devices we know nothing else of.
 *
 * QEMU heeds it at the end of a precopy, but starts the guest of every postcopy. It sends that last of all, so the last match is it,
 * whatever a guest may have put into its devices.
 */
import { decodeGlobalState, GLOBAL_STATE_BYTES, GLOBAL_STATE_IDSTR } from '../wire/device-sections.ts';
import { StreamError } from '../wire/stream-error.ts';

/** What stands between a section's name and its body: instance 0, version 1. */
const INSTANCE_AND_VERSION = Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 1);

/**
 * @param deviceSections FULL sections
 * @returns QMP's run state, such as `running` or `paused`; undefined if the sections do not say
 */
export function savedRunState(deviceSections: Uint8Array): string | undefined {
  const name = Buffer.from(GLOBAL_STATE_IDSTR, 'latin1');
  const header = Buffer.concat([Uint8Array.of(name.length), name, INSTANCE_AND_VERSION]);
  const sections = Buffer.from(deviceSections.buffer, deviceSections.byteOffset, deviceSections.length);
  const at = sections.lastIndexOf(header);
  if (at < 0) return undefined;
  const bodyAt = at + header.length;
  try {
    return decodeGlobalState(sections.subarray(bodyAt, bodyAt + GLOBAL_STATE_BYTES));
  } catch (error) {
    if (error instanceof StreamError) return undefined;
    throw error;
  }
}

/**
 * Whether QEMU would let the guest run at the end of a precopy. All other states stay what they are: `paused`, but also
 * `prelaunch` of a guest that has never run, or `guest-panicked`.
 */
export function ranWhenSaved(deviceSections: Uint8Array): boolean {
  return (savedRunState(deviceSections) ?? 'running') === 'running';
}
