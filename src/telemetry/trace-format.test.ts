import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatTraceEvent } from './trace-format.ts';

test('formatTraceEvent() gives time, name and fields', () => {
  assert.equal(
    formatTraceEvent('migrate_set_state', { side: 'source', from: 'setup', to: 'active' }, 1234.5678),
    '1234.568 migrate_set_state side=source from=setup to=active',
  );
  assert.equal(formatTraceEvent('savevm_send_ping', {}, 0), '0.000 savevm_send_ping');
});

test('formatTraceEvent() prints numbers and booleans plainly', () => {
  assert.equal(
    formatTraceEvent('postcopy_place_page', { idstr: 'pc.ram', offset: 4096, zero: false }, 1),
    '1.000 postcopy_place_page idstr=pc.ram offset=4096 zero=false',
  );
});

test('formatTraceEvent() quotes strings that would break the line', () => {
  assert.equal(
    formatTraceEvent('postcopy_start', { cause: 'a b=c\n"', remainingPages: 1 }, 1),
    '1.000 postcopy_start cause="a b=c\\n\\"" remainingPages=1',
  );
  assert.equal(
    formatTraceEvent('postcopy_start', { cause: '' }, 1),
    '1.000 postcopy_start cause=""',
    'an empty string is seen',
  );
});
