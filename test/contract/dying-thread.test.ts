/**
 * A migration thread that dies by a mistake of ours: what is said, and that a guest waits at a missing page nevertheless.
 *
 * The test is the machine of a destination, and makes the mistake: an answer to a question that was not asked.
 */
import assert from 'node:assert/strict';
import { writeSync } from 'node:fs';
import { test } from 'node:test';
import { type MessagePort, Worker } from 'node:worker_threads';
import { closeFd } from '../../src/linux/fd.ts';
import { mapAnonymous } from '../../src/linux/memory.ts';
import { signalEventfd } from '../../src/linux/poll.ts';
import { socketPair } from '../../src/linux/socket-pair.ts';
import {
  advised,
  allPages,
  discard,
  ping,
  RIG_BLOCKS,
  RIG_DEVICE,
  RIG_MACHINE_TYPE,
  wholePackage,
} from '../../src/migration/destination-rig.ts';
import type { MachineReply, MachineRequest } from '../../src/threads/messages.ts';
import { FdChannel } from '../../src/transport/channel.ts';
import { type MigrationHost, MigrationThread } from '../../src/vm/migration-thread.ts';
import { atEnd } from '../support/cleanup.ts';
import { until } from '../support/until.ts';
import type { PageReaderData } from './page-reader.ts';

const PAGE = 4096;

test('when the thread of a destination dies, that is said, and the guest reads no zeros', {
  timeout: 60_000,
}, async (t) => {
  const memories = RIG_BLOCKS.map(({ lengthBytes }) => mapAnonymous(lengthBytes));
  const [fd, peerFd] = socketPair();
  atEnd(t, () => closeFd(peerFd));
  const statuses: string[] = [];
  const messages: string[] = [];
  let machine: { readonly port: MessagePort; readonly wakeFd: number } | undefined;
  const reply = (answer: MachineReply) => {
    machine?.port.postMessage(answer);
    signalEventfd(machine?.wakeFd ?? -1);
  };
  const host: MigrationHost = {
    ramBlocks: RIG_BLOCKS.map((block, index) => ({
      ...block,
      hostAddress: (memories[index] as { address: bigint }).address,
    })),
    machineType: RIG_MACHINE_TYPE,
    deviceSection: RIG_DEVICE,
    traces: [],
    attachMachine: (port, wakeFd) => {
      machine = { port, wakeFd };
      port.on('message', ({ id, kind }: MachineRequest) => {
        if (kind === 'load-devices') reply({ id, kind: 'devices-loaded' });
        if (kind === 'resume') reply({ id, kind: 'resumed', downtime: undefined });
      });
    },
    onStatus: (status, error) => {
      statuses.push(status);
      if (error !== undefined) messages.push(error);
    },
    onPass: () => {},
    onGuest: () => {},
    onArrived: (isRunning) => statuses.push(isRunning ? 'running' : 'paused'),
    onEnded: () => statuses.push('ended'),
    onTrace: () => {},
    onMessage: (text) => messages.push(text),
  };
  const channel = new FdChannel({ fd, hasReturnPath: true, peer: 'test' });
  const migration = MigrationThread.startDestination(host, channel, {
    staysPaused: false,
    peerTimeoutMs: 60_000,
  });
  for (const piece of [advised, allPages, discard(0, 1, 2), ping(2), wholePackage]) writeSync(peerFd, piece);
  await until('the guest to run', () => statuses.includes('running'));

  reply({ id: 0, kind: 'devices-loaded' });
  await until('the end of the thread', () => statuses.includes('ended'));
  assert.deepEqual(statuses.slice(-2), ['postcopy-paused', 'ended']);
  assert.match(messages.join('\n'), /A migration thread died: .*cannot be recovered any more/s);
  assert.equal(await migration.query(), undefined);

  const answer = new Int32Array(new SharedArrayBuffer(8));
  const data: PageReaderData = {
    address: (memories[0] as { address: bigint }).address + BigInt(PAGE),
    answer,
  };
  const reader = new Worker(new URL('./page-reader.js', import.meta.url), { workerData: data });
  await until('the reader to come to the page', () => Atomics.load(answer, 1) === 1);
  const fromMs = performance.now();
  await until('a moment', () => performance.now() - fromMs > 500);
  assert.equal(Atomics.load(answer, 0), 0, 'a missing page was read');

  // The guest is given up: now nothing may wait any more.
  await migration.close();
  await until('the reader to go on', () => Atomics.load(answer, 0) === 1);
  machine?.port.close();
  closeFd(machine?.wakeFd ?? -1);
  await reader.terminate();
});
