/**
 * The threads of this process that stand between TLS and a channel.
 */
import type { Worker } from 'node:worker_threads';
import type { TlsPumpOrder } from './tls-messages.ts';

/** Each with its end. */
const pumps = new Map<Worker, Promise<void>>();

export function keepPump(worker: Worker): void {
  const ended = new Promise<void>((resolve) => {
    worker.once('exit', () => {
      pumps.delete(worker);
      resolve();
    });
  });
  pumps.set(worker, ended);
}

/**
 * Before the end of the process: lets them send what was written to channels that are closed by now.
 *
 * @param limitMs more is not waited
 */
export async function flushTlsChannels(limitMs: number): Promise<void> {
  if (pumps.size === 0) return;
  const order: TlsPumpOrder = { kind: 'end' };
  for (const worker of pumps.keys()) worker.postMessage(order);
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, limitMs);
  });
  await Promise.race([Promise.all(pumps.values()), timeout]);
  clearTimeout(timer);
}
