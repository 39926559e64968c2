/** Tells kernel images apart by their magic numbers, before v86 is given one: it ignores what it does not know. */

export type KernelKind = 'multiboot' | 'bzimage';

const MULTIBOOT_MAGIC = 0x1badb002;
/** A multiboot header lies wholly in the first 8 KiB, on a multiple of four (Multiboot specification, 3.1). */
const MULTIBOOT_SEARCH_BYTES = 8192;
/** "HdrS", at 0x202 of a Linux image (Linux Documentation/arch/x86/boot.rst). */
const LINUX_MAGIC = 0x53726448;

/**
 * @throws {TypeError} if the image is neither a multiboot kernel nor a Linux bzImage
 */
export function kernelKindOf(image: Uint8Array, path: string): KernelKind {
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
  const lastHeader = Math.min(MULTIBOOT_SEARCH_BYTES, image.length) - 12;
  for (let at = 0; at <= lastHeader; at += 4) {
    if (view.getUint32(at, true) !== MULTIBOOT_MAGIC) continue;
    const sum = MULTIBOOT_MAGIC + view.getUint32(at + 4, true) + view.getUint32(at + 8, true);
    if (sum >>> 0 === 0) return 'multiboot';
  }
  if (image.length >= 0x206 && view.getUint32(0x202, true) === LINUX_MAGIC) return 'bzimage';
  throw new TypeError(`Cannot boot "${path}": neither a multiboot kernel nor a Linux bzImage`);
}
