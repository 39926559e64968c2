/**
 * Whether a QEMU is the machine that a snapshot was taken of, asked before anything is sent.
 *
 * QEMU itself refuses another machine, but ends with it, and says so in words that do not name the option to change.
 */

import type { QmpClient } from '../qemu/qmp-client.ts';
import { formatBytes } from '../telemetry/format.ts';
import type { SendableSnapshot } from './snapshot-source.ts';

/** The QEMU is another machine, or not in a state to take a guest; the text says what to change. */
export class WrongQemuError extends Error {
  override readonly name = 'WrongQemuError';
}

/** What `-m` gives is a block of one of these names, unless a memory backend has another. */
const MAIN_RAM_NAMES = ['pc.ram', 'ram', 'mach-virt.ram'];

/** @throws {WrongQemuError} */
export async function checkQemu(qmp: QmpClient, snapshot: SendableSnapshot): Promise<void> {
  const { status } = await qmp.execute<{ status: string }>('query-status');
  if (status !== 'inmigrate')
    throw new WrongQemuError(`QEMU does not wait for a migration, it is "${status}"`);
  await checkMachineType(qmp, snapshot.machineType);
  await checkMemorySize(qmp, snapshot);
}

async function checkMachineType(qmp: QmpClient, wanted: string): Promise<void> {
  const type = await qmp.execute<string>('qom-get', { path: '/machine', property: 'type' });
  const machineType = type.replace(/-machine$/, '');
  if (machineType === wanted) return;
  const hint = wanted.startsWith('v86-')
    ? 'that is a machine of "postcopy run", which no QEMU can take'
    : `start it with "-machine ${wanted}"`;
  throw new WrongQemuError(
    `The snapshot is of machine type "${wanted}" and this QEMU is "${machineType}": ${hint}`,
  );
}

async function checkMemorySize(qmp: QmpClient, snapshot: SendableSnapshot): Promise<void> {
  const main = snapshot.blocks.find(({ idstr }) => MAIN_RAM_NAMES.includes(idstr));
  if (main === undefined) return;
  const { 'base-memory': here } = await qmp.execute<{ 'base-memory': number }>('query-memory-size-summary');
  if (here === main.lengthBytes) return;
  throw new WrongQemuError(
    `The snapshot has ${formatBytes(main.lengthBytes)} of memory in "${main.idstr}" and this QEMU has ` +
      `${formatBytes(here)}: start it with "-m ${main.lengthBytes / 2 ** 20}M"`,
  );
}
