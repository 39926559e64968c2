import assert from 'node:assert/strict';
import { test } from 'node:test';
import { completeLine } from './completion.ts';
import { FakeVm } from './fake-vm.ts';
import { createContext } from './session.ts';

const { context } = createContext({ vm: new FakeVm(), version: '1.2.3', quit() {}, interrupt() {} });
const complete = (line: string) => completeLine(context, line);

test('completeLine() offers commands, info topics and topics of help', () => {
  assert.deepEqual(complete('migrate_s'), [
    ['migrate_set_capability ', 'migrate_set_parameter ', 'migrate_start_postcopy '],
    'migrate_s',
  ]);
  assert.deepEqual(complete('inf'), [['info '], 'inf']);
  assert.deepEqual(complete('info st'), [['status '], 'st']);
  assert.deepEqual(complete('help pm'), [['pmemsave '], 'pm']);
  assert.deepEqual(complete('help info ver'), [['version '], 'ver']);
  assert.ok(complete('')[0].length > 10);
});

test('completeLine() offers values of arguments', () => {
  assert.deepEqual(complete('migrate_set_capability p'), [['postcopy-ram '], 'p']);
  assert.deepEqual(complete('migrate_set_capability postcopy-ram '), [['on ', 'off '], '']);
  assert.deepEqual(complete('migrate_set_parameter down'), [['downtime-limit '], 'down']);
  assert.deepEqual(complete('trace-event postcopy_pl'), [['postcopy_place_page '], 'postcopy_pl']);
  assert.deepEqual(complete('info migrate_bitmap v'), [['vga.vram '], 'v']);
  assert.deepEqual(complete('info trace-events migrate_p'), [['migrate_pending '], 'migrate_p']);
});

test('completeLine() offers nothing where it knows nothing', () => {
  for (const line of ['foo ', 'migrate ', 'migrate -d x', 'stop ', 'info foo ']) {
    assert.deepEqual(complete(line)[0], [], line);
  }
});
