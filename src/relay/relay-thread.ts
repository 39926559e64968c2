/**
 * Thread of a relay: a worker that moves and checks the bytes of both directions. Nothing else runs on it.
 */
import { workerData } from 'node:worker_threads';
import { nameThread, scheduleThread } from '../linux/scheduling.ts';
import { RelayLoop } from './relay-loop.ts';
import type { RelayThreadData } from './relay-messages.ts';

nameThread('relay');
// Whoever waits for a page waits for this thread twice.
scheduleThread({ sliceUs: 500, nice: -5 });
new RelayLoop(workerData as RelayThreadData).run();
