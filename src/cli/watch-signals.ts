/**
 * Signals by which somebody asks this process to come to an end.
 */
import { endProcessNow } from './end-process.ts';

/** The second signal ends this process at once. @returns a function that stops watching */
export function watchSignals(onSignal: (signal: NodeJS.Signals) => void): () => void {
  let count = 0;
  const handler = (signal: NodeJS.Signals) => {
    if (++count > 1) endProcessNow(130);
    onSignal(signal);
  };
  const signals = ['SIGHUP', 'SIGINT', 'SIGTERM'] as const;
  for (const signal of signals) process.on(signal, handler);
  return () => {
    for (const signal of signals) process.off(signal, handler);
  };
}
