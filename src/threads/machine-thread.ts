/**
 * Machine thread: a worker in which one machine lives.
 *
 * Its event loop is the guest's: while the guest waits for a missing page, nothing else here runs, and nobody may expect
 * an answer. Nothing but the machine and its server belongs on it.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { nameThread } from '../linux/scheduling.ts';
import { V86Machine } from '../machine/v86/v86-machine.ts';
import { MachineServer } from './machine-server.ts';
import type { MachineNotice, MachineOrder, MachineThreadData } from './messages.ts';

const main = parentPort as NonNullable<typeof parentPort>;
const notify = (notice: MachineNotice) => main.postMessage(notice);

nameThread('machine');
try {
  const { kind: _kind, ...options } = workerData as MachineThreadData;
  const machine = await V86Machine.create({
    ...options,
    onSerial: (bytes) => notify({ kind: 'serial', bytes }),
    onEvent: (event) =>
      notify({
        kind: 'guest',
        event: event.kind,
        message: event.kind === 'crashed' ? event.error.message : `The guest was ${event.kind}`,
      }),
  });
  const server = new MachineServer(machine);
  main.on('message', (order: MachineOrder) => {
    if (order.kind === 'attach') {
      const { port, wakeFd } = order;
      server.attach(port, wakeFd, () => notify({ kind: 'detached', wakeFd }));
    }
    if (order.kind === 'release') {
      server.release();
      notify({ kind: 'released' });
    }
    if (order.kind === 'serial') type(machine, order.bytes);
  });
  const { machineType, ramBlocks, deviceSection } = machine;
  notify({ kind: 'ready', machineType, ramBlocks, deviceSection });
} catch (error) {
  notify({ kind: 'unusable', message: (error as Error).message });
}

/** A guest that reads nothing, or has crashed, takes no input; that must not cost it its thread. */
function type(machine: V86Machine, bytes: Uint8Array): void {
  try {
    machine.sendSerial(bytes);
  } catch (error) {
    notify({ kind: 'guest', event: 'deaf', message: (error as Error).message });
  }
}
