/**
 * What a v86 machine is made from: its options, checked, and the files they name, read.
 */
import { readFile } from 'node:fs/promises';
import { DiskImage } from './disk-image.ts';
import { kernelKindOf } from './kernel-image.ts';
import type { V86Settings } from './v86-internals.ts';

/** What a guest did that its owner should know; it does not run on after `crashed`. */
export type GuestEvent =
  /** The guest restarted the machine. Without a BIOS there is nothing to start, and `crashed` follows. */
  | { readonly kind: 'reset' }
  /** The CPU waits with interrupts off: it will never run again. */
  | { readonly kind: 'halted' }
  /** The emulator cannot go on: a triple fault, or something v86 does not emulate. */
  | { readonly kind: 'crashed'; readonly error: Error };

export interface V86MachineOptions {
  /** Guest RAM in bytes: a multiple of 1 MiB from 2 MiB to 2047 MiB. */
  readonly memoryBytes: number;
  /** Linear frame buffer in bytes: a power of two from 256 KiB to 256 MiB; 1 MiB unless given. */
  readonly vgaMemoryBytes?: number;
  /** A multiboot kernel (needs no BIOS) or a Linux bzImage (needs one). Without it nothing is loaded. */
  readonly kernel?: { readonly path: string };
  readonly initrdPath?: string;
  readonly commandLine?: string;
  readonly biosPath?: string;
  readonly vgaBiosPath?: string;
  /** A disk image; 1 MiB of zeros unless given. */
  readonly hardDiskPath?: string;
  /** An ISO image; an empty disc unless given. */
  readonly cdromPath?: string;
  /** Off unless given. */
  readonly acpi?: boolean;
  /** What the guest wrote to COM1 since the last call; the machine keeps no reference to it. */
  readonly onSerial?: (bytes: Uint8Array) => void;
  readonly onEvent?: (event: GuestEvent) => void;
}

const MIB = 1024 * 1024;
const DEFAULT_VGA_MEMORY_BYTES = MIB;
const MIN_MEMORY_BYTES = 2 * MIB;
const MAX_MEMORY_BYTES = 2047 * MIB;
const MIN_VGA_MEMORY_BYTES = 256 * 1024;
const MAX_VGA_MEMORY_BYTES = 256 * MIB;
/** v86 puts the initrd of a Linux kernel here. */
const INITRD_OFFSET = 64 * MIB;
/** v86 cannot restore IDE channels without drives, so there are always both. */
const BLANK_DISK_BYTES = MIB;
const BLANK_DISC_BYTES = 2048 * 16;

type LoadedFiles = Pick<V86Settings, 'bios' | 'vga_bios' | 'initrd' | 'multiboot' | 'bzimage'>;

/**
 * v86's settings for these options. The disks are open: whoever has the settings closes them.
 *
 * @throws {RangeError} if a size is not one the machine can have
 * @throws {TypeError} if the kernel is none, or is a bzImage and there is no BIOS
 * @throws {Error} if a file cannot be read
 */
export async function loadSettings(options: V86MachineOptions): Promise<V86Settings> {
  checkSizes(options);
  const files = await loadFiles(options);
  const { memoryBytes, vgaMemoryBytes = DEFAULT_VGA_MEMORY_BYTES, commandLine, acpi = false } = options;
  const hda = diskOf(options.hardDiskPath, BLANK_DISK_BYTES);
  try {
    const cdrom = diskOf(options.cdromPath, BLANK_DISC_BYTES);
    const cmdline = commandLine === undefined ? {} : { cmdline: commandLine };
    return {
      memory_size: memoryBytes,
      vga_memory_size: vgaMemoryBytes,
      acpi,
      hda,
      cdrom,
      ...cmdline,
      ...files,
    };
  } catch (error) {
    hda.close();
    throw error;
  }
}

function checkSizes({ memoryBytes, vgaMemoryBytes = DEFAULT_VGA_MEMORY_BYTES }: V86MachineOptions): void {
  const isMemory =
    memoryBytes >= MIN_MEMORY_BYTES && memoryBytes <= MAX_MEMORY_BYTES && memoryBytes % MIB === 0;
  if (!isMemory) {
    throw new RangeError(
      `Cannot create machine: memory must be 2 to 2047 whole MiB, got ${memoryBytes} bytes`,
    );
  }
  const isVgaMemory =
    vgaMemoryBytes >= MIN_VGA_MEMORY_BYTES &&
    vgaMemoryBytes <= MAX_VGA_MEMORY_BYTES &&
    Number.isInteger(Math.log2(vgaMemoryBytes));
  if (!isVgaMemory) {
    throw new RangeError(
      `Cannot create machine: video memory must be a power of two from 256 KiB to 256 MiB, got ${vgaMemoryBytes} bytes`,
    );
  }
}

async function loadFiles(options: V86MachineOptions): Promise<LoadedFiles> {
  const { kernel, initrdPath, biosPath, vgaBiosPath, memoryBytes } = options;
  const files: { -readonly [Name in keyof LoadedFiles]: LoadedFiles[Name] } = {};
  if (biosPath !== undefined) files.bios = await load(biosPath);
  if (vgaBiosPath !== undefined) files.vga_bios = await load(vgaBiosPath);
  if (kernel === undefined) {
    if (initrdPath !== undefined) throw new TypeError('Cannot create machine: an initrd needs a kernel');
    return files;
  }

  const image = await load(kernel.path);
  const kind = kernelKindOf(new Uint8Array(image.buffer), kernel.path);
  if (kind === 'bzimage' && biosPath === undefined) {
    throw new TypeError(`Cannot boot "${kernel.path}": a Linux kernel needs a BIOS, and none was given`);
  }
  files[kind] = image;
  if (initrdPath !== undefined) {
    files.initrd = await load(initrdPath);
    const neededBytes = (kind === 'bzimage' ? INITRD_OFFSET : 0) + files.initrd.buffer.byteLength;
    if (memoryBytes < Math.max(neededBytes, INITRD_OFFSET)) {
      throw new RangeError(
        `Cannot boot with an initrd: memory must be above ${neededBytes} bytes and 64 MiB`,
      );
    }
  }
  return files;
}

/** A file in an `ArrayBuffer` of its own, which v86 may change. */
async function load(path: string): Promise<{ buffer: ArrayBuffer }> {
  return { buffer: new Uint8Array(await readFile(path)).buffer };
}

function diskOf(path: string | undefined, blankBytes: number): DiskImage {
  return path === undefined ? DiskImage.blank(blankBytes) : DiskImage.open(path);
}
