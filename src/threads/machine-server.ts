/**
 * Serves a machine to other threads: the requests of all ports, one after the other, in the machine's own thread.
 *
 * It also knows what the machine does not: whether the guest runs, and when it stopped at the source.
 */
import type { MessagePort } from 'node:worker_threads';
import { signalEventfd } from '../linux/poll.ts';
import type { Machine } from '../machine/machine.ts';
import {
  guestDowntime,
  type StopMoment,
  stopMoment,
  unwrapDeviceState,
  wrapDeviceState,
} from './device-envelope.ts';
import type { MachineReply, MachineRequest } from './messages.ts';

/** A reply before it has its number. */
type Answer = MachineReply extends infer Reply
  ? Reply extends { id: number }
    ? Omit<Reply, 'id'>
    : never
  : never;

export class MachineServer {
  readonly #machine: Machine;
  #isRunning = false;
  #stoppedAtNs = process.hrtime.bigint();
  /** When the guest stopped at the source; set from the load of its state to its first resume. */
  #stoppedAtSource: StopMoment | undefined;
  #queue: Promise<void> = Promise.resolve();

  constructor(machine: Machine) {
    this.#machine = machine;
  }

  /** @param wakeFd signalled with every reply, for a client that sits in poll(2) */
  attach(port: MessagePort, wakeFd: number | undefined): void {
    port.on('message', (request: MachineRequest) => {
      this.#queue = this.#queue.then(async () => {
        const reply = await this.#answer(request);
        port.postMessage(reply, reply.kind === 'devices-saved' ? [reply.state.buffer as ArrayBuffer] : []);
        if (wakeFd !== undefined) signalEventfd(wakeFd);
      });
    });
  }

  async #answer(request: MachineRequest): Promise<MachineReply> {
    try {
      return { id: request.id, ...(await this.#perform(request)) } as MachineReply;
    } catch (error) {
      return { id: request.id, kind: 'failed', message: (error as Error).message };
    }
  }

  async #perform(request: MachineRequest): Promise<Answer> {
    switch (request.kind) {
      case 'pause': {
        const wasRunning = this.#isRunning;
        const pausedAtNs = await this.#machine.pause();
        if (wasRunning) this.#stoppedAtNs = pausedAtNs;
        this.#isRunning = false;
        return { kind: 'paused', wasRunning };
      }
      case 'resume': {
        const resumedAtNs = await this.#machine.resume();
        this.#isRunning = true;
        const stopped = this.#stoppedAtSource;
        this.#stoppedAtSource = undefined;
        const downtime = stopped && guestDowntime(stopped, resumedAtNs);
        return { kind: 'resumed', downtime };
      }
      case 'save-devices': {
        const state = await this.#machine.saveDevices();
        return {
          kind: 'devices-saved',
          state: wrapDeviceState(state, stopMoment(this.#stoppedAtNs)),
        };
      }
      case 'load-devices': {
        const { state, moment } = unwrapDeviceState(request.state);
        await this.#machine.loadDevices(state);
        this.#stoppedAtSource = moment;
        return { kind: 'devices-loaded' };
      }
    }
  }
}
