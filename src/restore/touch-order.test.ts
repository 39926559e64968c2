import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { tempFolder } from '../../test/support/temp-folder.ts';
import { readTouchOrder, touchOrderPath, writeTouchOrder } from './touch-order.ts';

const machine = {
  machineType: 'pc-1',
  blocks: [
    { idstr: 'pc.ram', lengthBytes: 0x10000, pageSizeBytes: 4096 },
    { idstr: 'rom', lengthBytes: 0x1000, pageSizeBytes: 4096 },
  ],
};
const order = {
  requests: 5,
  runs: [
    { block: 1, firstPage: 0, pageCount: 1 },
    { block: 0, firstPage: 3, pageCount: 4 },
  ],
};

test('readTouchOrder() gives what writeTouchOrder() wrote, and leaves nothing else behind', (t) => {
  const folder = tempFolder(t);
  const path = touchOrderPath(join(folder, 'web1.snap'));
  assert.equal(readTouchOrder(path, machine), undefined);
  writeTouchOrder(path, machine, { requests: 1, runs: [] });
  writeTouchOrder(path, machine, order);
  assert.deepEqual(readTouchOrder(path, machine), order);
  assert.deepEqual(readdirSync(folder), ['web1.snap.order']);
});

test('readTouchOrder() refuses what is no order, or one of another machine', (t) => {
  const path = join(tempFolder(t), 'x.order');
  const refuses = (text: string, why: RegExp) => {
    writeFileSync(path, text);
    assert.throws(() => readTouchOrder(path, machine), why);
  };
  refuses('', /no touch order/);
  refuses('{"touch-order":2}', /no touch order/);
  for (const run of ['[2,0,1]', '[1,0,2]', '[0,16,1]', '[0,0,9007199254740991]']) {
    const blocks = '[{"idstr":"pc.ram","length":65536},{"idstr":"rom","length":4096}]';
    refuses(
      `{"touch-order":1,"machine-type":"pc-1","blocks":${blocks},"requests":1,"runs":[${run}]}`,
      /names pages that do not exist/,
    );
  }
  writeTouchOrder(path, machine, order);
  assert.throws(() => readTouchOrder(path, { ...machine, machineType: 'pc-2' }), /another machine/);
  const shorter = [{ ...machine.blocks[0]!, lengthBytes: 0x8000 }, machine.blocks[1]!];
  assert.throws(() => readTouchOrder(path, { ...machine, blocks: shorter }), /another machine/);
});

test('writeTouchOrder() says that a folder is missing', (t) => {
  const path = join(tempFolder(t), 'gone', 'x.order');
  assert.throws(() => writeTouchOrder(path, machine, order), /cannot be written: .*ENOENT/);
});

test('writeTouchOrder() leaves nothing behind when it cannot give the file its name', (t) => {
  const folder = tempFolder(t);
  const path = join(folder, 'x.order');
  mkdirSync(path);
  assert.throws(() => writeTouchOrder(path, machine, order), /cannot be written: .*EISDIR/);
  assert.deepEqual(readdirSync(folder), ['x.order']);
});
