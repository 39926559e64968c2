/** How much of what a peer announces a destination accepts, in bytes. */
export interface StreamLimits {
  /** Name in CONFIGURATION. */
  readonly machineTypeBytes: number;
  /** Payload of one command; QEMU sends at most 450, as discards. */
  readonly commandBytes: number;
  /** Content of PACKAGED: all device state. */
  readonly packageBytes: number;
  /** JSON after EOF; it is skipped, not kept. */
  readonly vmDescriptionBytes: number;
}

export const STREAM_LIMITS: StreamLimits = {
  machineTypeBytes: 1024,
  commandBytes: 8 * 1024,
  packageBytes: 64 * 1024 * 1024,
  vmDescriptionBytes: 64 * 1024 * 1024,
};
