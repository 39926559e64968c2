/**
 * What happens to the machine as QMP events: STOP, RESUME, SHUTDOWN, MIGRATION and MIGRATION_PASS.
 *
 * The two about migrations are sent only while the capability `events` is on.
 */
import type { RunState, Vm } from '../vm/vm.ts';

export interface QmpEvent {
  readonly event: string;
  readonly data?: Readonly<Record<string, unknown>>;
  readonly timestamp: { readonly seconds: number; readonly microseconds: number };
}

/** Why the program ends, by QEMU's names. */
export type ShutdownReason = 'host-qmp-quit' | 'host-signal' | 'host-error';

/** @param wallClockMs with a fraction; for the timestamp */
export function qmpEvent(event: string, data?: QmpEvent['data'], wallClockMs = wallClock()): QmpEvent {
  const microseconds = Math.floor(wallClockMs * 1000);
  return {
    timestamp: { seconds: Math.floor(microseconds / 1e6), microseconds: microseconds % 1e6 },
    event,
    ...(data !== undefined && { data }),
  };
}

/**
 * Reports what happens from now on.
 *
 * @returns a function that ends this
 */
export function watchEvents(vm: Vm, onEvent: (event: QmpEvent) => void): () => void {
  let isRunning = vm.runState === 'running';
  const onRunState = (state: RunState) => {
    const wasRunning = isRunning;
    isRunning = state === 'running';
    if (state === 'shutdown') onEvent(qmpEvent('SHUTDOWN', { guest: false, reason: 'host-error' }));
    if (wasRunning && !isRunning) onEvent(qmpEvent('STOP'));
    if (!wasRunning && isRunning) onEvent(qmpEvent('RESUME'));
  };
  const onMigration = (status: string) => {
    if (vm.capabilities.events) onEvent(qmpEvent('MIGRATION', { status }));
  };
  const onPass = (pass: number) => {
    if (vm.capabilities.events) onEvent(qmpEvent('MIGRATION_PASS', { pass }));
  };

  vm.on('runState', onRunState);
  vm.on('migration', onMigration);
  vm.on('migrationPass', onPass);
  return () => {
    vm.off('runState', onRunState);
    vm.off('migration', onMigration);
    vm.off('migrationPass', onPass);
  };
}

function wallClock(): number {
  return performance.timeOrigin + performance.now();
}
