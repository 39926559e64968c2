import assert from 'node:assert/strict';
import { test } from 'node:test';
import { matchTraceNames, TRACE_NAMES } from './trace-names.ts';

test('matchTraceNames() takes a name as it is', () => {
  assert.deepEqual(matchTraceNames('migrate_pending'), ['migrate_pending']);
  assert.deepEqual(matchTraceNames('migrate_'), []);
  assert.deepEqual(matchTraceNames(''), []);
});

test('matchTraceNames() lets * stand for any characters', () => {
  assert.deepEqual(matchTraceNames('*'), TRACE_NAMES);
  assert.deepEqual(matchTraceNames('**'), TRACE_NAMES);
  assert.deepEqual(matchTraceNames('migrate_*'), ['migrate_set_state', 'migrate_pending']);
  assert.deepEqual(matchTraceNames('*pages'), ['ram_save_queue_pages']);
  assert.deepEqual(matchTraceNames('savevm*section*end'), ['savevm_section_end']);
  assert.deepEqual(matchTraceNames('migrate_pending*'), ['migrate_pending']);
  assert.deepEqual(matchTraceNames('migrate_*_pending'), [], 'parts do not overlap');
});

test('matchTraceNames() takes other signs of patterns literally', () => {
  assert.deepEqual(matchTraceNames('.*'), []);
  assert.deepEqual(matchTraceNames('migrate_pendin?'), []);
  assert.deepEqual(matchTraceNames('[m]*'), []);
});
