import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ByteWriter } from '../wire/byte-writer.ts';
import { ControlQueue } from './control-queue.ts';

test('ControlQueue gives whole messages in their order, over as many calls as that takes', () => {
  const queue = new ControlQueue();
  queue.push(Uint8Array.of(1, 2, 3));
  queue.push(Uint8Array.of(4));
  queue.push(Uint8Array.of(5, 6, 7, 8));
  assert.equal(queue.pendingBytes, 8);
  const given: number[][] = [];
  while (queue.pendingBytes > 0) {
    const writer = new ByteWriter(new Uint8Array(3));
    queue.writeTo(writer);
    given.push([...writer.subarray()]);
  }
  assert.deepEqual(given, [
    [1, 2, 3],
    [4, 5, 6],
    [7, 8],
  ]);
});

test('ControlQueue leaves the rest of the target alone', () => {
  const queue = new ControlQueue();
  queue.push(Uint8Array.of(1));
  const writer = new ByteWriter(new Uint8Array(4));
  queue.writeTo(writer);
  queue.writeTo(writer);
  assert.equal(writer.position, 1);
});
