/**
 * The least that a transfer can take: a process that moves bytes over one socket with the same system calls as a
 * migration thread (poll, read, write on a non-blocking descriptor), and does nothing else. The child of bare-socket.ts.
 */
import assert from 'node:assert/strict';
import { readInto, WOULD_BLOCK, writeFrom } from '../src/linux/fd.ts';
import { Advice, madvise, mapAnonymous } from '../src/linux/memory.ts';
import { PollEvent, PollSet } from '../src/linux/poll.ts';
import { connectChannel } from '../src/transport/connect.ts';
import { listenChannel } from '../src/transport/listen.ts';
import type { BareJob, BareResult } from './bare-socket.ts';

const CHUNK_BYTES = 2 ** 20;
const WARM_UP_ROUNDS = 1000;

const polls = new PollSet(1);
const job = JSON.parse(process.argv[2] as string) as BareJob;
/** Resolves when the message is out, so that the process may end. */
const tell = (message: BareResult) => new Promise((resolve) => process.send?.(message, resolve));

if (job.peer === undefined) await listen();
else await connect(job.peer);
process.disconnect();

async function listen(): Promise<void> {
  const listener = await listenChannel('tcp:127.0.0.1:0');
  const accepting = listener.accept();
  await tell({ kind: 'listening', address: listener.address });
  const { fd } = await accepting;
  listener.close();
  if (job.kind === 'copy') receiveCopy(fd, job.lengthBytes);
  else answer(fd, job.requestBytes, job.replyBytes, job.rounds + WARM_UP_ROUNDS);
}

async function connect(peer: string): Promise<void> {
  const { fd } = await connectChannel(peer);
  if (job.kind === 'copy') await tell(sendCopy(fd, job.lengthBytes));
  else await tell(ask(fd, job.requestBytes, job.replyBytes, job.rounds));
}

function ask(fd: number, requestBytes: number, replyBytes: number, rounds: number): BareResult {
  const { address } = mapAnonymous(CHUNK_BYTES);
  const samplesUs: number[] = [];
  for (let round = -WARM_UP_ROUNDS; round < rounds; round++) {
    const startedAtMs = performance.now();
    writeAll(fd, Number(address), requestBytes);
    readAll(fd, Number(address), replyBytes);
    if (round >= 0) samplesUs.push((performance.now() - startedAtMs) * 1000);
  }
  return { kind: 'asked', samplesUs };
}

function answer(fd: number, requestBytes: number, replyBytes: number, rounds: number): void {
  const { address } = mapAnonymous(CHUNK_BYTES);
  for (let round = 0; round < rounds; round++) {
    readAll(fd, Number(address), requestBytes);
    writeAll(fd, Number(address), replyBytes);
  }
}

/** From one memory to the other, none of it read twice, as guest memory is. */
function sendCopy(fd: number, lengthBytes: number): BareResult {
  const memory = mapAnonymous(lengthBytes);
  memory.bytes.fill(1);
  const startedAtMs = performance.now();
  for (let at = 0; at < lengthBytes; at += CHUNK_BYTES) {
    writeAll(fd, Number(memory.address) + at, Math.min(CHUNK_BYTES, lengthBytes - at));
  }
  readAll(fd, Number(memory.address), 1);
  return { kind: 'copied', elapsedMs: performance.now() - startedAtMs };
}

function receiveCopy(fd: number, lengthBytes: number): void {
  const memory = mapAnonymous(lengthBytes);
  try {
    madvise(memory.address, lengthBytes, Advice.HUGEPAGE);
  } catch {
    // A kernel without transparent huge pages.
  }
  for (let at = 0; at < lengthBytes; at += CHUNK_BYTES) {
    readAll(fd, Number(memory.address) + at, Math.min(CHUNK_BYTES, lengthBytes - at));
  }
  writeAll(fd, Number(memory.address), 1);
}

function readAll(fd: number, address: number, lengthBytes: number): void {
  for (let at = 0; at < lengthBytes; ) {
    polls.set(0, fd, PollEvent.IN);
    polls.wait(-1);
    const count = readInto(fd, address + at, lengthBytes - at);
    assert.notEqual(count, 0, 'the peer closed the connection');
    if (count !== WOULD_BLOCK) at += count;
  }
}

function writeAll(fd: number, address: number, lengthBytes: number): void {
  for (let at = 0; at < lengthBytes; ) {
    const count = writeFrom(fd, address + at, lengthBytes - at);
    if (count !== WOULD_BLOCK) {
      at += count;
      continue;
    }
    polls.set(0, fd, PollEvent.OUT);
    polls.wait(-1);
  }
}
