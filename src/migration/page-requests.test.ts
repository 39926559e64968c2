import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PageBitmap } from '../memory/page-bitmap.ts';
import { PageRequests, RequestTimes } from './page-requests.ts';

const BLOCKS = [
  { idstr: 'pc.ram', lengthBytes: 8 * 4096, pageSizeBytes: 4096 },
  { idstr: 'rom', lengthBytes: 2 * 4096, pageSizeBytes: 4096 },
];

function rig() {
  const messages: string[] = [];
  const received = BLOCKS.map(({ lengthBytes }) => new PageBitmap(lengthBytes / 4096));
  const times = new RequestTimes(BLOCKS);
  const requests = new PageRequests(BLOCKS, received, times, (message) =>
    messages.push(Buffer.from(message).toString('hex')),
  );
  return { messages, received, times, requests };
}

test('PageRequests names the block in the first request and at a change, and asks for whole pages', () => {
  const { messages, requests } = rig();
  assert.equal(requests.fault(0, 0x2fff, 10), 'requested');
  assert.equal(requests.fault(0, 0x5000, 11), 'requested');
  assert.equal(requests.fault(1, 0x1001, 12), 'requested');
  assert.equal(requests.fault(0, 0x1000, 13), 'requested');
  assert.deepEqual(messages, [
    `0003${'0013'}${'0000000000002000'}${'00001000'}06${Buffer.from('pc.ram').toString('hex')}`,
    `0004${'000c'}${'0000000000005000'}${'00001000'}`,
    `0003${'0010'}${'0000000000001000'}${'00001000'}03${Buffer.from('rom').toString('hex')}`,
    `0003${'0013'}${'0000000000001000'}${'00001000'}06${Buffer.from('pc.ram').toString('hex')}`,
  ]);
});

test('PageRequests asks for a page once', () => {
  const { messages, requests } = rig();
  requests.fault(0, 0x1000, 10);
  assert.equal(requests.fault(0, 0x1fff, 11), 'already-requested');
  assert.equal(requests.fault(1, 0x1000, 11), 'requested', 'the same offset of another block');
  assert.equal(messages.length, 2);
});

test('PageRequests asks for no page that was received', () => {
  const { messages, received, requests } = rig();
  received[0]?.set(3);
  assert.equal(requests.fault(0, 0x3000, 10), 'received');
  requests.fault(0, 0x4000, 10);
  received[0]?.set(4);
  assert.equal(requests.fault(0, 0x4000, 11), 'received', 'also when it was asked for');
  assert.equal(messages.length, 1);
});

test('PageRequests asks for whole host pages of a block of huge pages', () => {
  const blocks = [{ idstr: 'huge', lengthBytes: 4 * 2 ** 20, pageSizeBytes: 2 * 2 ** 20 }];
  const messages: string[] = [];
  const requests = new PageRequests(blocks, [new PageBitmap(1024)], new RequestTimes(blocks), (message) =>
    messages.push(Buffer.from(message).toString('hex')),
  );
  assert.equal(requests.fault(0, 0x20_1234, 1), 'requested');
  assert.equal(requests.fault(0, 0x3f_ffff, 1), 'already-requested');
  assert.deepEqual(messages, [`00030011${'0000000000200000'}${'00200000'}0468756765`]);
});

test('RequestTimes tells how long a page was waited for', () => {
  const times = new RequestTimes(BLOCKS);
  assert.equal(times.waitedUs(1, 0, 100), -1);
  times.setRequested(1, 0, 100);
  assert.ok(times.isRequested(1, 0) && !times.isRequested(0, 7) && !times.isRequested(1, 1));
  assert.equal(times.waitedUs(1, 0, 350), 250);
});

test('RequestTimes goes on where 32 bits end, and a time of 0 is a request', () => {
  const times = new RequestTimes(BLOCKS);
  const end = 2 ** 32;
  times.setRequested(0, 0, 5 * end - 10);
  assert.equal(times.waitedUs(0, 0, 5 * end + 20), 30);
  times.setRequested(0, 1, 7 * end);
  assert.ok(times.isRequested(0, 1));
});

test('RequestTimes can share its memory', () => {
  const words = RequestTimes.allocate(BLOCKS);
  assert.ok(words.buffer instanceof SharedArrayBuffer);
  new RequestTimes(BLOCKS, words).setRequested(1, 1, 9);
  assert.ok(new RequestTimes(BLOCKS, words).isRequested(1, 1));
  assert.equal(words.length, 10);
});

test('PageRequests.askAgain() names each page that was asked for and has not come, and its block first', () => {
  const { messages, received, requests } = rig();
  for (const page of [1, 2, 3]) requests.fault(0, page * 4096, 10);
  requests.fault(1, 0, 10);
  received[0]?.set(2);
  messages.length = 0;
  assert.equal(requests.askAgain(), 3);
  assert.deepEqual(messages, [
    `0003${'0013'}${'0000000000001000'}${'00001000'}06${Buffer.from('pc.ram').toString('hex')}`,
    `0004${'000c'}${'0000000000003000'}${'00001000'}`,
    `0003${'0010'}${'0000000000000000'}${'00001000'}03${Buffer.from('rom').toString('hex')}`,
  ]);
  messages.length = 0;
  assert.equal(requests.fault(0, 0x1000, 20), 'already-requested');
  received[0]?.setRange(0, 8);
  received[1]?.setRange(0, 2);
  assert.equal(requests.askAgain(), 0);
  assert.deepEqual(messages, []);
});
