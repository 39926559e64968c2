import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { GuestClock } from './guest-clock.ts';

function waitForHostClock(): void {
  const beganMs = performance.now();
  while (performance.now() === beganMs);
}

describe('GuestClock', () => {
  test('stands still until it is started, and when it is stopped', () => {
    const clock = new GuestClock();
    waitForHostClock();
    assert.equal(clock.nowMs(), 0);
    clock.start();
    waitForHostClock();
    clock.stop();
    const stoodAtMs = clock.nowMs();
    assert.ok(stoodAtMs > 0);
    waitForHostClock();
    assert.equal(clock.nowMs(), stoodAtMs);
  });

  test('goes on from where it stood, and from where it was set', () => {
    const clock = new GuestClock();
    clock.set(5000, 1e12);
    clock.start();
    clock.start();
    waitForHostClock();
    assert.ok(clock.nowMs() > 5000 && clock.nowMs() < 10_000);
    assert.throws(() => clock.set(0, 0), { message: /while it runs/ });
    clock.stop();
  });

  test('withDate() shows the guest its date, and only there', () => {
    const clock = new GuestClock();
    clock.set(86_400_000, 0);
    const dates = clock.withDate(() => [
      Date.now(),
      Date.parse(new Date().toISOString()),
      new Date(7).getTime(),
      Date.UTC(1970, 0, 2),
    ]);
    assert.deepEqual(dates, [86_400_000, 86_400_000, 7, 86_400_000]);
    assert.ok(clock.withDate(() => new Date()) instanceof Date);
    assert.ok(Date.now() > 86_400_000);
    assert.throws(() => clock.withDate(() => assert.fail('thrown')), { message: 'thrown' });
    assert.ok(Date.now() > 86_400_000);
  });

  test('importWithNow() gives a module this clock to bind, and only to it', async () => {
    const clock = new GuestClock();
    clock.set(1234, 0);
    const bound = await clock.importWithNow(async () => performance.now.bind(performance));
    assert.equal(bound(), 1234);
    waitForHostClock();
    assert.equal(bound(), 1234);
    assert.equal(Object.hasOwn(performance, 'now'), false);
  });
});
