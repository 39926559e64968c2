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
  /** The migration that stopped the guest: nobody else may let it run before that has ended. */
  #heldBy: MessagePort | undefined;
  #queue: Promise<void> = Promise.resolve();

  constructor(machine: Machine) {
    this.#machine = machine;
  }

  /**
   * @param wakeFd of a migration, which sits in poll(2): signalled with every reply, until `onDetached`
   */
  attach(port: MessagePort, wakeFd: number | undefined, onDetached: () => void): void {
    let isAttached = true;
    port.on('close', () => {
      isAttached = false;
      onDetached();
    });
    port.on('message', (request: MachineRequest) => {
      this.#queue = this.#queue.then(async () => {
        const reply = await this.#answer(request, port, wakeFd !== undefined);
        if (!isAttached) return;
        port.postMessage(reply, reply.kind === 'devices-saved' ? [reply.state.buffer as ArrayBuffer] : []);
        if (wakeFd !== undefined) signalEventfd(wakeFd);
      });
    });
  }

  /** The migration that stopped the guest has ended, and what is to become of the guest is known. */
  release(): void {
    this.#heldBy = undefined;
  }

  async #answer(request: MachineRequest, port: MessagePort, isMigration: boolean): Promise<MachineReply> {
    try {
      if (request.kind === 'resume' && this.#heldBy !== undefined && this.#heldBy !== port) {
        throw new Error('The guest stands still for the migration');
      }
      const answer = await this.#perform(request);
      if (request.kind === 'pause' && isMigration) this.#heldBy = port;
      if (request.kind === 'resume') this.#heldBy = undefined;
      return { id: request.id, ...answer } as MachineReply;
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
