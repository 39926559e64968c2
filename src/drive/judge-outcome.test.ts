import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type EndFacts, judgeOutcome, type SideFacts } from './judge-outcome.ts';

const side = (status: string, runState: string, more: Partial<SideFacts> = {}): SideFacts => ({
  ...{ isGone: false, isSilent: false, hasRun: runState === 'running' },
  ...{ status, runState },
  ...more,
});
const GONE = { isGone: true };
const SILENT = { isSilent: true };

const judge = (source: SideFacts, destination: SideFacts, more: Partial<EndFacts> = {}) =>
  judgeOutcome({ wasRunning: true, hasSwitched: false, source, destination, ...more });

/** Outcome, place of the guest, and whether it may be continued. */
const verdictOf = (...facts: Parameters<typeof judge>) => {
  const { outcome, guestAt, mayContinue } = judge(...facts);
  return `${outcome} ${guestAt}${mayContinue ? ' cont' : ''}`;
};

test('judgeOutcome() calls it completed when the source says so and the guest is at the destination', () => {
  const moved = side('completed', 'postmigrate');
  assert.equal(verdictOf(moved, side('completed', 'running')), 'completed destination');
  assert.equal(verdictOf(moved, side('completed', 'paused'), { wasRunning: false }), 'completed destination');
  assert.match(judge(moved, side('completed', 'paused')).text, /"cont" lets it run/);
  assert.equal(verdictOf(moved, side('active', 'inmigrate')), 'unknown destination');
  assert.equal(verdictOf(moved, side('completed', 'internal-error')), 'unknown destination');
  assert.equal(verdictOf(moved, side('active', 'inmigrate', GONE)), 'unknown unknown');
  assert.equal(verdictOf(moved, side('completed', 'running', SILENT)), 'unknown unknown');
});

test('judgeOutcome() believes a destination that has all, when the source says nothing any more', () => {
  for (const lost of [GONE, SILENT]) {
    const source = side('postcopy-active', 'finish-migrate', lost);
    assert.equal(
      verdictOf(source, side('completed', 'running'), { hasSwitched: true }),
      'completed destination',
    );
    assert.match(judge(source, side('completed', 'running')).text, /source's monitor/);
  }
});

test('judgeOutcome() finds the guest at the source after a failure or a cancel', () => {
  assert.equal(verdictOf(side('failed', 'running'), side('active', 'inmigrate', GONE)), 'failed source');
  assert.equal(verdictOf(side('cancelled', 'running'), side('active', 'inmigrate')), 'cancelled source');
  assert.equal(
    verdictOf(side('failed', 'running'), side('none', 'inmigrate'), { cancelledBy: 'operator' }),
    'cancelled source',
  );
  assert.equal(
    verdictOf(side('cancelled', 'running'), side('none', 'inmigrate', GONE), { cancelledBy: 'driver' }),
    'failed source',
  );
  assert.equal(
    verdictOf(side('failed', 'postmigrate'), side('active', 'inmigrate', GONE), { wasRunning: false }),
    'failed source',
  );
  assert.match(
    judge(side('failed', 'running', { errorText: 'no route' }), side('none', 'inmigrate')).text,
    /has failed: no route\. The guest runs on/,
  );
  assert.match(
    judge(side('failed', 'running'), side('none', 'inmigrate', GONE)).text,
    /the destination's process has ended \(its own messages say why\)/,
  );
});

test('judgeOutcome() continues a guest only where it cannot run at the destination', () => {
  const paused = side('failed', 'paused');
  assert.equal(verdictOf(paused, side('active', 'inmigrate', GONE)), 'failed source cont');
  assert.equal(verdictOf(paused, side('failed', 'inmigrate')), 'failed source cont');

  assert.equal(verdictOf(paused, side('active', 'inmigrate')), 'unknown unknown');
  assert.equal(verdictOf(paused, side('none', 'inmigrate')), 'unknown unknown');
  assert.equal(verdictOf(paused, side('failed', 'inmigrate', SILENT)), 'unknown unknown');
  assert.equal(verdictOf(paused, side('active', 'inmigrate', { ...GONE, hasRun: true })), 'unknown unknown');
  assert.equal(verdictOf(paused, side('active', 'running', GONE)), 'unknown unknown');
  assert.equal(
    verdictOf(paused, side('active', 'inmigrate', GONE), { hasSwitched: true }),
    'unknown unknown',
  );
  assert.equal(
    verdictOf(side('failed', 'internal-error'), side('active', 'inmigrate', GONE)),
    'unknown unknown',
  );
  assert.match(
    judge(paused, side('active', 'inmigrate')).text,
    /Make sure that it does not run there; then "cont"/,
  );
});

test('judgeOutcome() warns of a guest that runs twice, or where nobody expects it', () => {
  assert.match(
    judge(side('failed', 'running'), side('completed', 'running')).text,
    /runs on both sides: stop one/,
  );
  const there = judge(side('failed', 'paused'), side('completed', 'running'));
  assert.deepEqual([there.outcome, there.guestAt], ['unknown', 'destination']);
  assert.match(there.text, /Do not let it run at the source/);
});

test('judgeOutcome() says what is known when no side has ended the migration', () => {
  const goneSource = side('active', 'running', GONE);
  assert.match(
    judge(goneSource, side('active', 'inmigrate', GONE)).text,
    /source's process has ended, and the guest with it/,
  );
  assert.match(
    judge(side('postcopy-active', 'finish-migrate', GONE), side('postcopy-paused', 'running'), {
      hasSwitched: true,
    }).text,
    /runs at the destination, and pages that only the source had are missing/,
  );
  assert.match(
    judge(side('postcopy-paused', 'finish-migrate'), side('postcopy-active', 'running', GONE), {
      hasSwitched: true,
    }).text,
    /destination's process has ended in postcopy, and what the guest did there is lost/,
  );
  assert.match(
    judge(side('active', 'running', SILENT), side('active', 'inmigrate')).text,
    /Source: it does not answer; when it last did: migration active/,
  );
});
