/**
 * Save thread: a worker that receives a source and makes a snapshot of it.
 */
import { workerData } from 'node:worker_threads';
import type { SaveThreadData } from './messages.ts';
import { SaveLoop } from './save-loop.ts';

new SaveLoop(workerData as SaveThreadData).run();
