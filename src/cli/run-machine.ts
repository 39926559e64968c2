/**
 * The life of a machine on the command line: made, connected to consoles and monitors, moved, ended.
 *
 *   ends with   quit at a monitor                                 0
 *               a migration that failed before its guest ran here 1
 *               the end of the machine's own thread               1
 *               SIGHUP, SIGINT, SIGTERM                           128 + number; a second one ends at once
 *
 * A source whose guest moved away stays, as QEMU does, until it is told to quit, or to wait for a guest with `migrate_incoming`.
 */
import { constants } from 'node:os';
import { MonitorServers } from '../monitor/server.ts';
import type { VirtualMachineOptions } from '../vm/virtual-machine.ts';
import type { Vm } from '../vm/vm.ts';
import { endProcessNow, printMessage } from './end-process.ts';
import { packageVersion } from './package-info.ts';
import type { RunSettings } from './run-settings.ts';
import { connectSerialConsole } from './serial-console.ts';
import { connectTraceOutput } from './trace-output.ts';

const SIGNALS = ['SIGHUP', 'SIGINT', 'SIGTERM'] as const;
type Signal = (typeof SIGNALS)[number];

/** A thread that waits for a page that never comes cannot be stopped; the end of the process ends it. */
const CLOSE_TIMEOUT_MS = 5000;

type End = { readonly cause: 'quit' | 'machine-died' | 'failed-incoming' } | { readonly cause: Signal };

/**
 * @returns the exit code, when the machine has ended
 * @throws {Error} if it cannot be made, with a text for whoever typed the command
 */
export async function runMachine(
  settings: RunSettings,
  createVm: (options: VirtualMachineOptions) => Promise<Vm> = createVirtualMachine,
): Promise<number> {
  const closers: (() => void | Promise<void>)[] = [];
  let end: (end: End) => void = () => {};
  const ended = new Promise<End>((resolve) => {
    end = resolve;
  });
  const interrupt = watchSignals((signal) => end({ cause: signal }), closers);
  try {
    const vm = await createVm(settings.machine);
    closers.push(() => closeInTime(vm));
    vm.on('message', printMessage);
    closers.push(connectTraceOutput(vm, settings.traceFile));
    closers.push(connectSerialConsole(vm, settings.serial, interrupt));
    const monitors = new MonitorServers({
      vm,
      version: packageVersion(),
      quit: () => end({ cause: 'quit' }),
      interrupt,
    });
    let cause: End['cause'] = 'failed-incoming';
    closers.push(() => monitors.close(shutdownReason(cause)));

    watchEnd(vm, settings, end);
    for (const pattern of settings.tracePatterns) vm.setTrace(pattern, true);
    for (const properties of settings.objects) vm.addObject(properties);
    vm.setCapabilities(settings.capabilities);
    vm.setParameters(settings.parameters);
    await monitors.serve('qmp', settings.qmp);
    await monitors.serve('human', settings.monitor);
    if (settings.incomingUri !== undefined) {
      printMessage(`waiting for a migration at ${await vm.migrateIncoming(settings.incomingUri)}`);
    }
    cause = (await ended).cause;
    return exitCode(cause);
  } finally {
    for (const close of closers.reverse()) await close();
  }
}

async function createVirtualMachine(options: VirtualMachineOptions): Promise<Vm> {
  const { VirtualMachine } = await import('../vm/virtual-machine.ts');
  return VirtualMachine.create(options);
}

/** @returns a function that acts as if SIGINT had come */
function watchSignals(onSignal: (signal: Signal) => void, closers: (() => void)[]): () => void {
  let count = 0;
  const handle = (signal: Signal) => {
    count++;
    if (count > 1) endProcessNow(signalExitCode(signal));
    onSignal(signal);
  };
  for (const signal of SIGNALS) process.on(signal, handle);
  closers.push(() => {
    for (const signal of SIGNALS) process.off(signal, handle);
  });
  return () => handle('SIGINT');
}

function watchEnd(vm: Vm, settings: RunSettings, end: (end: End) => void): void {
  let isIncoming = settings.machine.incoming !== undefined;
  vm.on('runState', (state) => {
    if (state === 'running') isIncoming = false;
    // Its guest has moved away, and it has been told to wait for one.
    if (state === 'inmigrate') isIncoming = true;
    if (state === 'shutdown') end({ cause: 'machine-died' });
  });
  vm.on('migration', (status) => {
    if (status === 'completed') isIncoming = false;
    if (status !== 'failed' || !isIncoming) return;
    // The message that says why comes first.
    void vm.migrationEnded().then(() => setImmediate(() => end({ cause: 'failed-incoming' })));
  });
}

function exitCode(cause: End['cause']): number {
  if (cause === 'quit') return 0;
  return isFailure(cause) ? 1 : signalExitCode(cause);
}

function isFailure(cause: End['cause']): cause is 'machine-died' | 'failed-incoming' {
  return cause === 'machine-died' || cause === 'failed-incoming';
}

function signalExitCode(signal: Signal): number {
  return 128 + constants.signals[signal];
}

function shutdownReason(cause: End['cause']) {
  if (cause === 'quit') return 'host-qmp-quit';
  return isFailure(cause) ? 'host-error' : 'host-signal';
}

async function closeInTime(vm: Vm): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, CLOSE_TIMEOUT_MS);
  });
  await Promise.race([vm.close(), timeout]);
  clearTimeout(timer);
}
