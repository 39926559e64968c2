/**
 * What a test needs of the host, a program or a kernel feature: without it the test is skipped and says why.
 *
 * Where everything must be there, as in CI, POSTCOPY_TEST_REQUIRE_ALL=1 turns every skip into a failure.
 */
import assert from 'node:assert/strict';

/** What of node:test's context is needed here. */
export interface Skippable {
  skip(why: string): void;
}

/**
 *     if (!skipUnless(t, 'NASM', hasNasm, 'nasm is not installed')) return;
 *
 * @param what the thing needed, e.g. `IPv6`
 * @param why what is missing, in words for whoever reads the test report
 * @returns whether the test can go on; if not, it has been marked as skipped
 * @throws {assert.AssertionError} instead of skipping, if everything must be there
 */
export function skipUnless(t: Skippable, what: string, isThere: boolean, why: string): boolean {
  if (isThere) return true;
  const isRequired = ['', '0', undefined].includes(process.env['POSTCOPY_TEST_REQUIRE_ALL']) === false;
  assert(!isRequired, `${what} is missing, and POSTCOPY_TEST_REQUIRE_ALL forbids to skip its tests: ${why}`);
  t.skip(`${what}: ${why}`);
  return false;
}
