/** How much of what a peer announces is accepted, in bytes unless the name says otherwise. */
export interface StreamLimits {
  /** Name in CONFIGURATION. */
  readonly machineTypeBytes: number;
  /** Payload of one command; QEMU sends at most 450, as discards. */
  readonly commandBytes: number;
  /** Content of PACKAGED: all device state. */
  readonly packageBytes: number;
  /** JSON after EOF; a destination skips it, others parse it, and objects take some times the memory of their text. */
  readonly vmDescriptionBytes: number;
  /** Number of RAM blocks of a machine that is not known here. */
  readonly blocks: number;
  /** RAM of a machine that is not known here, all blocks together. */
  readonly ramBytes: number;
}

export const STREAM_LIMITS: StreamLimits = {
  machineTypeBytes: 1024,
  commandBytes: 8 * 1024,
  packageBytes: 64 * 1024 * 1024,
  vmDescriptionBytes: 16 * 1024 * 1024,
  blocks: 4096,
  ramBytes: 64 * 2 ** 40,
};
