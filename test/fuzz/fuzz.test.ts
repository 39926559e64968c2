import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Random } from '../simulation/random.ts';
import { examine, whyBadText } from './examine.ts';
import { fuzz, replay } from './fuzz.ts';
import { PieceWriter } from './piece.ts';
import type { Run, Target } from './target.ts';
import { TARGETS } from './targets.ts';

/** About so many bytes for each target, whatever they take; every run begins with the same seed. */
const INPUTS = 1000;
const BYTES = 12 * 2 ** 20;
const FIRST_SEED = Number(process.env['SEED'] ?? 1);

for (const target of TARGETS) {
  test(`${target.name} keeps what it promises, whatever comes (SEED=${FIRST_SEED})`, async () => {
    let leftBytes = BYTES;
    const { findings } = await fuzz(
      {
        ...target,
        run: (run) => {
          leftBytes -= run.bytes.length;
          return target.run(run);
        },
      },
      { firstSeed: FIRST_SEED, goOn: (inputs) => inputs < INPUTS && leftBytes > 0 },
    );
    const [finding] = findings;
    if (finding === undefined) return;
    assert.fail(`npm run fuzz -- --target ${target.name} --input ${finding.seed}: ${finding.broken}`);
  });
}

const record = new PieceWriter().number(7, 4).raw('abc').piece('record');

/** Takes bytes, and does something wrong with a 9 in them. */
function broken(atNine: (run: Run) => void): Target {
  return {
    name: 'broken',
    seeds: () => [[record, record]],
    refusals: ['StreamError'],
    largestBytes: () => 1000,
    allocatedBytes: () => 10_000,
    run: (run) => {
      if (run.bytes.includes(9)) atNine(run);
    },
  };
}

const BROKEN: readonly (readonly [string, (run: Run) => void, RegExp])[] = [
  ['an error that is not of this project', () => (null as unknown as Run).bytes, /TypeError/],
  [
    'a text that moves the cursor',
    () => {
      throw Object.assign(new Error('a\x1b[2Jb'), { name: 'StreamError' });
    },
    /unprintable/,
  ],
  [
    'an error without a place',
    () => {
      throw Object.assign(new Error('no'), { name: 'StreamError' });
    },
    /no place/,
  ],
  ['memory beyond its limit', () => void new Uint8Array(2000), /at once/],
  ['an outcome that depends on the cuts', (run) => run.say(`${Math.min(run.nextCut(), 1e9)}`), /cut up/],
];

for (const [what, atNine, found] of BROKEN) {
  test(`the fuzzer finds ${what}, and makes the input again by its name`, async () => {
    const target = broken(atNine);
    const { findings } = await fuzz(target, {
      firstSeed: 1,
      goOn: (inputs) => inputs < 20_000,
      mostFindings: 1,
    });
    assert.match(findings[0]?.broken ?? '', found);
    const again = await replay(target, findings[0]?.seed ?? '');
    assert.equal(again.broken?.split('\n')[0], findings[0]?.broken.split('\n')[0]);
  });
}

test('examine() accepts a legal input', async () => {
  const verdict = await examine(
    broken(() => assert.fail()),
    [record],
    new Random(1),
  );
  assert.deepEqual([verdict.broken, verdict.refusal, verdict.inputBytes], [undefined, undefined, 7]);
});

test('whyBadText() lets a sentence pass', () => {
  assert.equal(whyBadText('Unknown ramblock "\\x1b", cannot accept migration (stream byte 7)'), undefined);
});
