import assert from 'node:assert/strict';
import { test } from 'node:test';
import { closeFd, pipeCloexec, readInto, setNonblocking, WOULD_BLOCK } from '../linux/fd.ts';
import { mapAnonymous } from '../linux/memory.ts';
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import { OutgoingBytes } from './outgoing-bytes.ts';

const CAPACITY_BYTES = 64 * 1024;
const PAGES = 8;

function pages() {
  const memory = mapAnonymous(PAGES * TARGET_PAGE_BYTES);
  for (let at = 0; at < memory.bytes.length; at++) memory.bytes[at] = (at * 7 + (at >> 12)) & 0xff;
  return memory;
}

/** Writes to a pipe, which takes at most 64 KiB, and reads `stepBytes` of it whenever it is full, or all in the end. */
function throughPipe(outgoing: OutgoingBytes, stepBytes: number): Buffer {
  const [readFd, writeFd] = pipeCloexec();
  const chunk = mapAnonymous(CAPACITY_BYTES);
  const received: Buffer[] = [];
  const take = (lengthBytes: number) => {
    const count = readInto(readFd, chunk.address, lengthBytes);
    if (count !== WOULD_BLOCK) received.push(Buffer.from(chunk.bytes.subarray(0, count)));
    return count;
  };
  try {
    setNonblocking(readFd, true);
    setNonblocking(writeFd, true);
    while (outgoing.pendingBytes > 0) if (outgoing.writeTo(writeFd) === WOULD_BLOCK) take(stepBytes);
    while (take(CAPACITY_BYTES) > 0) {}
    return Buffer.concat(received);
  } finally {
    closeFd(readFd);
    closeFd(writeFd);
    chunk.unmap();
  }
}

test('OutgoingBytes sends pages of memory in the gaps of its buffer, wherever the channel stops taking', () => {
  const memory = pages();
  // Pipes of 4 KiB pages: a step of less than a page makes the writes end in the middle of every piece.
  for (const stepBytes of [CAPACITY_BYTES, TARGET_PAGE_BYTES, 3000]) {
    const outgoing = new OutgoingBytes(16 * CAPACITY_BYTES);
    const expected: Buffer[] = [];
    let at = 0;
    for (let round = 0; round < 200; round++) {
      const header = Buffer.alloc(round % 13, round); // Of some pages none.
      outgoing.buffer.set(header, at);
      const offset = (round % PAGES) * TARGET_PAGE_BYTES;
      outgoing.addPage(at + header.length, Number(memory.address) + offset);
      expected.push(header, Buffer.from(memory.bytes.subarray(offset, offset + TARGET_PAGE_BYTES)));
      at += header.length + TARGET_PAGE_BYTES;
    }
    outgoing.buffer.set(Buffer.from('the end'), at);
    outgoing.commit(at + 7);
    assert.equal(outgoing.pendingBytes, at + 7);
    assert(throughPipe(outgoing, stepBytes).equals(Buffer.concat([...expected, Buffer.from('the end')])));
    outgoing.close();
    outgoing.close();
  }
  memory.unmap();
});

test('OutgoingBytes is filled again after everything is written, and a page is read when it is written', () => {
  const memory = pages();
  const outgoing = new OutgoingBytes(CAPACITY_BYTES);
  for (const text of ['first', 'second']) {
    outgoing.buffer.set(Buffer.from(text));
    outgoing.addPage(text.length, Number(memory.address));
    outgoing.commit(text.length + TARGET_PAGE_BYTES);
    memory.bytes.fill(text.length, 0, TARGET_PAGE_BYTES);
    const expected = Buffer.concat([Buffer.from(text), Buffer.alloc(TARGET_PAGE_BYTES, text.length)]);
    assert(throughPipe(outgoing, CAPACITY_BYTES).equals(expected));
  }
  outgoing.close();
  memory.unmap();
});

test('OutgoingBytes.writeTo() throws what the channel says, and keeps what is pending', () => {
  const [readFd, writeFd] = pipeCloexec();
  closeFd(readFd);
  const outgoing = new OutgoingBytes(CAPACITY_BYTES);
  outgoing.commit(5);
  assert.throws(() => outgoing.writeTo(writeFd), { code: 'EPIPE', syscall: 'writev' });
  assert.equal(outgoing.pendingBytes, 5);
  closeFd(writeFd);
  outgoing.close();
});
