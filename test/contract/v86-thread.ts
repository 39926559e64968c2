/**
 * Worker entry of the tests: one V86Machine in a thread of its own, driven by messages.
 *
 *   in:  { id, method, argument? }
 *   out: { id, result } | { id, error } | { serial } | { event }
 */
import { parentPort, workerData } from 'node:worker_threads';
import { V86Machine } from '../../src/machine/v86/v86-machine.ts';
import type { V86MachineOptions } from '../../src/machine/v86/v86-options.ts';

const port = parentPort!;
const machine = await V86Machine.create({
  ...(workerData as V86MachineOptions),
  onSerial: (serial) => port.postMessage({ serial }),
  onEvent: (event) => port.postMessage({ event }),
});

const methods: Record<string, (argument: never) => unknown> = {
  describe: () => ({
    machineType: machine.machineType,
    ramBlocks: machine.ramBlocks,
    deviceSection: machine.deviceSection,
  }),
  pause: () => machine.pause(),
  resume: () => machine.resume(),
  saveDevices: () => machine.saveDevices(),
  loadDevices: (state: Uint8Array) => machine.loadDevices(state),
  sendSerial: (bytes: Uint8Array) => machine.sendSerial(bytes),
  guestNowMs: () => machine.guestNowMs,
  close: () => machine.close(),
};

port.on('message', async ({ id, method, argument }: { id: number; method: string; argument: never }) => {
  try {
    port.postMessage({ id, result: await methods[method]!(argument) });
  } catch (error) {
    port.postMessage({ id, error });
  }
});
