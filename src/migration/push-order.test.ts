import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SourceRig } from './source-rig.ts';

const drainPages = (words: readonly string[]) => words.filter((word) => /^(page|zero) /.test(word));

test('SourceMigration pushes the pages of an order first, then the rest', () => {
  const rig = new SourceRig({
    blocks: { 'pc.ram': 6, rom: 2 },
    pushFirst: [
      { block: 1, firstPage: 1, pageCount: 1 },
      { block: 0, firstPage: 3, pageCount: 2 },
    ],
  });
  rig.writeAll();
  rig.switchToPostcopy();
  assert.deepEqual(drainPages(rig.sendAll()), [
    'page rom 1',
    'page pc.ram 3',
    'page pc.ram 4',
    'page pc.ram 0',
    'page pc.ram 1',
    'page pc.ram 2',
    'page pc.ram 5',
    'page rom 0',
  ]);
  assert.equal(rig.engine.info(rig.nowMs)['x-pages-pushed-in-order'], 3);
});

test('SourceMigration passes over what an order names and nobody has, and what was asked for before', () => {
  const rig = new SourceRig({
    blocks: { 'pc.ram': 3 },
    pushFirst: [
      { block: 7, firstPage: 0, pageCount: 1 },
      { block: 0, firstPage: 9, pageCount: 9 },
      { block: 0, firstPage: 2, pageCount: 2 },
    ],
  });
  rig.writeAll();
  rig.switchToPostcopy();
  rig.request('pc.ram', 2);
  assert.deepEqual(drainPages(rig.sendAll()), ['page pc.ram 2', 'page pc.ram 0', 'page pc.ram 1']);
  assert.deepEqual(rig.requested, [{ block: 0, firstPage: 2, pageCount: 1 }]);
});

test('SourceMigration pushes nothing before it is quiet, but serves what is asked for', () => {
  const rig = new SourceRig({ blocks: { 'pc.ram': 3 }, quietBeforePushMs: 200 });
  rig.writeAll();
  rig.switchToPostcopy();
  assert.deepEqual(drainPages(rig.send()), []);
  rig.nowMs += 150;
  rig.request('pc.ram', 1);
  assert.deepEqual(drainPages(rig.send()), ['page pc.ram 1']);
  assert.equal(rig.engine.wakeAtMs(rig.nowMs), rig.nowMs + 200);
  rig.nowMs += 199;
  assert.deepEqual(drainPages(rig.send()), []);
  rig.nowMs += 1;
  assert.equal(drainPages(rig.sendAll()).length, 2);
});
