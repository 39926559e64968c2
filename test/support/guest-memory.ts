/**
 * The memory of a guest, taken from outside with `pmemsave`, and what it proves.
 */
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { checkGuest, type GuestReport } from '../../src/machine/guest-check.ts';
import type { VmProcess } from './vm-process.ts';

/** All memory of the guest, or the part of it that is given; the guest should stand still. */
export async function saveMemory(
  vm: VmProcess,
  folder: string,
  { offset = 0, lengthBytes }: { offset?: number; lengthBytes: number },
): Promise<Buffer> {
  const filename = join(folder, `${vm.name}.memory`);
  await vm.qmp.execute('pmemsave', { val: offset, size: lengthBytes, filename });
  try {
    return readFileSync(filename);
  } finally {
    rmSync(filename);
  }
}

/** @throws {GuestMemoryError} if a page is lost, mixed up or stale */
export function checkMemory(memory: Buffer): GuestReport {
  return checkGuest((offset, lengthBytes) => memory.subarray(offset, offset + lengthBytes));
}
