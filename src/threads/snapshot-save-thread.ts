/**
 * Save thread: a worker that receives a source and makes a snapshot of it.
 */
import { workerData } from 'node:worker_threads';
import { nameThread } from '../linux/scheduling.ts';
import type { SaveThreadData } from './messages.ts';
import { SaveLoop } from './save-loop.ts';

nameThread('snapshot-save');
new SaveLoop(workerData as SaveThreadData).run();
