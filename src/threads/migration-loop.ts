/**
 * What both migration threads share: their ports, their eventfd and their trace.
 */
import { type MessagePort, receiveMessageOnPort } from 'node:worker_threads';
import type { Trace, TraceEvents, TraceName } from '../telemetry/trace-events.ts';
import { monotonicMs } from './clock.ts';
import type { MigrationNotice, MigrationOrder } from './messages.ts';

export { PEER_TIMEOUT_MS } from '../transport/socket-channel.ts';

/** Trace points of a migration thread: those that are on are posted to the main thread. */
export class PortTrace implements Trace {
  readonly #port: MessagePort;
  #enabled: ReadonlySet<TraceName>;

  constructor(port: MessagePort, names: readonly TraceName[]) {
    this.#port = port;
    this.#enabled = new Set(names);
  }

  setEnabled(names: readonly TraceName[]): void {
    this.#enabled = new Set(names);
  }

  isEnabled(name: TraceName): boolean {
    return this.#enabled.has(name);
  }

  emit<Name extends TraceName>(name: Name, fields: TraceEvents[Name]): void {
    if (!this.#enabled.has(name)) return;
    const notice: MigrationNotice = { kind: 'trace', name, fields, atMs: monotonicMs() };
    this.#port.postMessage(notice);
  }
}

/** Calls back for every order that waits. */
export function takeOrders(port: MessagePort, onOrder: (order: MigrationOrder) => void): void {
  for (let taken = receiveMessageOnPort(port); taken !== undefined; taken = receiveMessageOnPort(port)) {
    onOrder(taken.message as MigrationOrder);
  }
}
