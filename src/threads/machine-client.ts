/**
 * The two ways to ask a machine server: with promises on an event loop, or by posting and collecting where the thread
 * sits in system calls.
 */
import { type MessagePort, receiveMessageOnPort } from 'node:worker_threads';
import type { MachineReply, MachineRequest } from './messages.ts';

type Kind = MachineRequest['kind'];
type Reply<ReplyKind extends MachineReply['kind']> = Extract<MachineReply, { kind: ReplyKind }>;

export class MachineClient {
  readonly #port: MessagePort;
  readonly #waiting = new Map<number, { resolve(reply: MachineReply): void; reject(error: Error): void }>();
  #nextId = 1;

  constructor(port: MessagePort) {
    this.#port = port;
    port.on('message', (reply: MachineReply) => {
      const waiting = this.#waiting.get(reply.id);
      this.#waiting.delete(reply.id);
      if (reply.kind === 'failed') waiting?.reject(new Error(reply.message));
      else waiting?.resolve(reply);
    });
  }

  /** @returns whether the guest ran */
  async pause(): Promise<boolean> {
    return (await this.#ask<'paused'>({ kind: 'pause' })).wasRunning;
  }

  async resume(): Promise<void> {
    await this.#ask<'resumed'>({ kind: 'resume' });
  }

  /** Whoever waits for a reply is told that none will come. */
  abandon(error: Error): void {
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
    this.#port.close();
  }

  #ask<ReplyKind extends MachineReply['kind']>(request: { kind: Kind }): Promise<Reply<ReplyKind>> {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve: (reply) => resolve(reply as Reply<ReplyKind>), reject });
      this.#port.postMessage({ id, ...request });
    });
  }
}

/** For a migration thread: requests are posted, replies collected when the eventfd wakes it. */
export class MachinePort {
  readonly #port: MessagePort;
  #unansweredCount = 0;

  constructor(port: MessagePort) {
    this.#port = port;
  }

  get hasUnanswered(): boolean {
    return this.#unansweredCount > 0;
  }

  post(kind: Exclude<Kind, 'load-devices'>): void {
    this.#unansweredCount++;
    this.#port.postMessage({ id: 0, kind });
  }

  postState(state: Uint8Array): void {
    this.#unansweredCount++;
    const own = state.slice();
    this.#port.postMessage({ id: 0, kind: 'load-devices', state: own }, [own.buffer]);
  }

  /** @returns the next reply, undefined if none has come */
  collect(): MachineReply | undefined {
    const reply = receiveMessageOnPort(this.#port)?.message as MachineReply | undefined;
    if (reply !== undefined) this.#unansweredCount--;
    return reply;
  }
}
