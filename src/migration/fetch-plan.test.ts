import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { PageBitmap } from '../memory/page-bitmap.ts';
import { FetchPlan, NO_CLAIMS, type PageClaims } from './fetch-plan.ts';
import type { PageRun } from './push-order.ts';

function bitmapOf(pageCount: number, pages: readonly number[]): PageBitmap {
  const bitmap = new PageBitmap(pageCount);
  for (const page of pages) bitmap.set(page);
  return bitmap;
}

interface RigOptions {
  readonly here?: readonly number[];
  readonly first?: readonly PageRun[];
  readonly claims?: PageClaims;
}

/** A block of 100 pages, of which those have content. */
function planOf(content: readonly number[], { here = [], first = [], claims = NO_CLAIMS }: RigOptions = {}) {
  const available = bitmapOf(100, here);
  const plan = new FetchPlan({ content: [bitmapOf(100, content)], available: [available], claims, first });
  return { plan, available };
}

const pagesFrom = (first: number, end: number) =>
  Array.from({ length: end - first }, (_, index) => first + index);

/** Claims in which another process has some pages; abandoned if it has gone. */
function claimsOf(others: Set<number>, isGone = () => false): PageClaims {
  return {
    claim: (_, page) => !others.has(page),
    release: () => {},
    isAbandoned: (_, page) => others.has(page) && isGone(),
    takeOver: (_, page) => others.delete(page),
  };
}

test('FetchPlan asks for what is missing in ranges over zero pages, and never for what is here', () => {
  const { plan, available } = planOf([...pagesFrom(10, 20), 22, 40, 41, 42, 43], { here: [41] });
  assert.equal(plan.remainingPages, 14);
  assert.deepEqual(plan.next(8), { block: 0, firstPage: 10, pageCount: 8, missingPages: 8 });
  assert.deepEqual(plan.next(8), { block: 0, firstPage: 18, pageCount: 5, missingPages: 3 });
  assert.deepEqual(plan.next(8), { block: 0, firstPage: 40, pageCount: 1, missingPages: 1 });
  assert.deepEqual(plan.next(8), { block: 0, firstPage: 42, pageCount: 2, missingPages: 2 });
  assert.equal(plan.next(8), undefined);
  assert.equal(plan.askedPages, 14);
  assert.equal(plan.take(0, 10), true);
  assert.equal(plan.take(0, 10), false, 'once');
  assert.equal(plan.take(0, 41), false, 'never asked for');
  assert.equal(available.isSet(10), false);
  plan.setAvailable(0, 10);
  assert.equal(available.isSet(10), true);
  assert.equal(plan.remainingPages, 13);
});

test('FetchPlan goes on behind a page that the guest waits for, and round', () => {
  const { plan } = planOf(pagesFrom(0, 100));
  assert.equal(plan.demand(0, 50), true);
  assert.equal(plan.demand(0, 50), true, 'asked for already');
  assert.equal(plan.next(4)?.firstPage, 51);
  assert.equal(plan.demand(0, 98), true);
  assert.equal(plan.next(4)?.firstPage, 99);
  assert.deepEqual(plan.next(64), { block: 0, firstPage: 0, pageCount: 50, missingPages: 50 });
});

test('FetchPlan follows a recorded order first', () => {
  const first = [
    { block: 0, firstPage: 60, pageCount: 3 },
    { block: 7, firstPage: 0, pageCount: 1 },
    { block: 0, firstPage: 5, pageCount: 1 },
  ];
  const { plan } = planOf(pagesFrom(0, 100), { first });
  assert.deepEqual(plan.next(2), { block: 0, firstPage: 60, pageCount: 2, missingPages: 2 });
  assert.deepEqual(plan.next(2), { block: 0, firstPage: 62, pageCount: 1, missingPages: 1 });
  assert.deepEqual(plan.next(2), { block: 0, firstPage: 5, pageCount: 1, missingPages: 1 });
  assert.equal(plan.next(2)?.firstPage, 0);
});

test('FetchPlan leaves to others what they have claimed, and takes what they bring', () => {
  const others = new Set([3, 4]);
  const { plan, available } = planOf([1, 2, 3, 4, 5], { claims: claimsOf(others) });
  assert.deepEqual(plan.next(64), { block: 0, firstPage: 1, pageCount: 2, missingPages: 2 });
  assert.equal(plan.demand(0, 4), false);
  assert.deepEqual(plan.next(64)?.firstPage, 5);
  assert.equal(plan.next(64), undefined);
  assert.equal(plan.elsewherePages, 2);
  const brought: number[] = [];
  plan.takePresent([bitmapOf(100, [2, 3])], (_, page) => brought.push(page));
  assert.deepEqual(brought, [3], 'what we have asked for comes to us');
  assert.ok(available.isSet(3));
  assert.deepEqual([plan.elsewherePages, plan.remainingPages, plan.askedPages], [1, 4, 3]);
});

test('FetchPlan asks for what others have claimed when they are gone', () => {
  const others = new Set([3, 4]);
  let isGone = false;
  const { plan } = planOf([3, 4], { claims: claimsOf(others, () => isGone) });
  assert.equal(plan.next(64), undefined);
  plan.reclaim(false);
  assert.equal(plan.next(64), undefined);
  isGone = true;
  plan.reclaim(false);
  assert.equal(plan.elsewherePages, 0);
  assert.equal(plan.next(64)?.missingPages, 2);
});

test('FetchPlan asks again for what was under way when the session was lost', () => {
  const released: number[] = [];
  const claims = { ...NO_CLAIMS, release: (_block: number, page: number) => released.push(page) };
  const { plan } = planOf([1, 2, 3], { claims });
  plan.next(64);
  plan.take(0, 2);
  plan.setAvailable(0, 2);
  plan.sessionLost();
  assert.deepEqual(released, [1, 3]);
  assert.equal(plan.askedPages, 0);
  assert.deepEqual(plan.next(64), { block: 0, firstPage: 1, pageCount: 1, missingPages: 1 });
  assert.equal(plan.next(64)?.firstPage, 3);
});

test('FetchPlan asks for every page once, whatever the order of events', () => {
  const page = fc.nat(99);
  const event = fc.oneof(
    fc.record({ demand: page }),
    fc.record({ next: fc.integer({ min: 1, max: 64 }) }),
    fc.record({ arrive: page }),
  );
  fc.assert(
    fc.property(fc.uniqueArray(page), fc.uniqueArray(page), fc.array(event), (content, here, events) => {
      const { plan, available } = planOf(content, { here });
      const asked = new Set<number>();
      const ask = (asks: number) => {
        assert.ok(content.includes(asks) && !here.includes(asks) && !asked.has(asks), `page ${asks}`);
        asked.add(asks);
      };
      const step = (next: number) => {
        const run = plan.next(next);
        if (run === undefined) return false;
        const inside = pagesFrom(run.firstPage, run.firstPage + run.pageCount).filter((each) =>
          content.includes(each),
        );
        assert.equal(inside.length, run.missingPages);
        for (const each of inside) ask(each);
        return true;
      };
      for (const each of events) {
        if ('next' in each) step(each.next);
        else if ('demand' in each) {
          if (!plan.isMissing(0, each.demand)) continue;
          plan.demand(0, each.demand);
          ask(each.demand);
        } else {
          const isAsked = asked.has(each.arrive) && !available.isSet(each.arrive);
          assert.equal(plan.take(0, each.arrive), isAsked);
          if (isAsked) plan.setAvailable(0, each.arrive);
        }
      }
      while (step(64)) {}
      for (const each of asked) if (plan.take(0, each)) plan.setAvailable(0, each);
      assert.equal(plan.remainingPages, 0);
      assert.equal(asked.size, content.filter((each) => !here.includes(each)).length);
    }),
  );
});
