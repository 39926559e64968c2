/**
 * What a file is that is no snapshot, for the error: people mix up the files of one machine.
 */

/** What files begin with that people take for snapshots. */
const KINDS: readonly (readonly [magic: string, what: string])[] = [
  ['\x7fELF', 'it is an ELF file, such as a program, a kernel or a memory dump'],
  ['QFI\xfb', 'it is a disk image (qcow2)'],
  ['KDMV', 'it is a disk image (VMDK)'],
  ['conectix', 'it is a disk image (VHD)'],
  ['vhdxfile', 'it is a disk image (VHDX)'],
  [
    'LibvirtQemud',
    "it is a save file of libvirt, in which the migration stream begins behind libvirt's own header",
  ],
  ['PCINDEX', 'it is the index of a stream file; name the stream file'],
  ['\x1f\x8b', 'it is compressed (gzip); unpack it first'],
  ['\x28\xb5\x2f\xfd', 'it is compressed (zstd); unpack it first'],
  ['\xfd7zXZ\x00', 'it is compressed (xz); unpack it first'],
  ['\0\0\0\0', 'it begins with zeros, as a snapshot does whose writing was not finished'],
];

/** How many of its first bytes are needed. */
export const FOREIGN_MAGIC_BYTES = 12;

/**
 * @param head the first bytes of what should begin with `QEVM`
 * @returns what it is, or undefined if it may be a migration stream
 */
export function describeForeignFile(head: Uint8Array): string | undefined {
  if (head.length === 0) return 'it is empty';
  const text = Buffer.from(head).toString('latin1');
  if ('QEVM'.startsWith(text.slice(0, 4))) return undefined;
  const known = KINDS.find(([magic]) => text.startsWith(magic));
  return known?.[1] ?? 'it is not a migration stream, which begins with "QEVM"';
}
