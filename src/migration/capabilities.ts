/**
 * Capabilities of a migration: switches, off by default, that both people and programs set by QEMU's names.
 */

/** One line per capability; `x-postcopy-ram` is the name the first postcopy series gave to `postcopy-ram`. */
export const CAPABILITIES = {
  events: 'Send MIGRATION and MIGRATION_PASS events to QMP clients',
  'postcopy-ram':
    'Allow the switch to postcopy: the guest runs at the destination while pages are still missing',
  'x-checksum':
    'Send a checksum with every page, to a destination of this program, which places no page that was changed on the way',
} as const;

export type Capability = keyof typeof CAPABILITIES;
export type Capabilities = Readonly<Record<Capability, boolean>>;

export const DEFAULT_CAPABILITIES: Capabilities = {
  events: false,
  'postcopy-ram': false,
  'x-checksum': false,
};

/** Older names that are still taken. */
const ALIASES: Readonly<Record<string, Capability>> = { 'x-postcopy-ram': 'postcopy-ram' };

/**
 * @returns the capability of that name or older name
 * @throws {RangeError} if there is none; the text lists those there are
 */
export function capabilityNamed(name: string): Capability {
  if (Object.hasOwn(CAPABILITIES, name)) return name as Capability;
  const alias = Object.hasOwn(ALIASES, name) ? ALIASES[name] : undefined;
  if (alias !== undefined) return alias;
  throw new RangeError(
    `No capability is named "${name}"; there are: ${Object.keys(CAPABILITIES).join(', ')}`,
  );
}
