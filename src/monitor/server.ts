/**
 * The monitors of a machine: QMP and HMP, each at the standard streams or at a unix socket, for any number of clients.
 */
import type { Server } from 'node:net';
import { HumanSession } from './human.ts';
import { listenUnix } from './listen-unix.ts';
import { QmpSession } from './qmp.ts';
import { qmpEvent, type ShutdownReason, watchEvents } from './qmp-events.ts';
import { type MonitorHost, type MonitorSession, type MonitorStreams, writeText } from './session.ts';
import type { MonitorTarget } from './target.ts';

export type MonitorProtocol = 'human' | 'qmp';

/** Clients a socket serves at a time; more are turned away. */
export const MAX_CLIENTS = 16;

const FLUSH_TIMEOUT_MS = 1000;

export class MonitorServers {
  readonly #host: MonitorHost;
  readonly #servers: Server[] = [];
  readonly #sessions = new Map<MonitorSession, MonitorStreams>();
  readonly #unwatch: () => void;
  #isClosed = false;

  constructor(host: MonitorHost) {
    this.#host = host;
    this.#unwatch = watchEvents(host.vm, (event) => {
      for (const session of this.#sessions.keys())
        if (session instanceof QmpSession) session.sendEvent(event);
    });
  }

  /**
   * Serves a protocol at a target.
   *
   * @param standardStreams what `stdio` means
   * @throws {Error} if a socket cannot be listened at
   */
  async serve(
    protocol: MonitorProtocol,
    target: MonitorTarget,
    standardStreams: MonitorStreams = { input: process.stdin, output: process.stdout },
  ): Promise<void> {
    if (target.kind === 'none') return;
    if (target.kind === 'stdio') {
      this.#add(protocol, standardStreams);
      return;
    }
    let clientCount = 0;
    const server = await listenUnix(target.path, (socket) => {
      if (clientCount >= MAX_CLIENTS || this.#isClosed) {
        socket.destroy();
        return;
      }
      clientCount++;
      socket.once('close', () => clientCount--);
      const session = this.#add(protocol, { input: socket, output: socket });
      void session.ended.then(() => socket.end());
    });
    this.#servers.push(server);
  }

  /**
   * Tells QMP clients why the program ends, lets them read it, and removes the sockets. Never fails, takes a second at
   * most; may be called twice.
   */
  async close(reason: ShutdownReason): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#unwatch();
    const event = qmpEvent('SHUTDOWN', { guest: false, reason });
    const flushed = [...this.#sessions].map(async ([session, { output }]) => {
      if (session instanceof QmpSession) session.sendEvent(event);
      await writeText(output, '');
      session.close();
    });
    for (const server of this.#servers) server.close();
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, FLUSH_TIMEOUT_MS);
    });
    await Promise.race([Promise.all(flushed), timeout]);
    clearTimeout(timer);
    for (const session of this.#sessions.keys()) session.close();
  }

  #add(protocol: MonitorProtocol, streams: MonitorStreams): MonitorSession {
    const session =
      protocol === 'qmp' ? new QmpSession(this.#host, streams) : new HumanSession(this.#host, streams);
    this.#sessions.set(session, streams);
    void session.ended.then(() => this.#sessions.delete(session));
    return session;
  }
}
