import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Authorization, isAllowed, matchesGlob } from './authorization.ts';
import { TlsObjects } from './tls-objects.ts';

const add = (properties: Record<string, unknown>) =>
  new TlsObjects().add({ id: 'a', ...properties }) as Authorization;

test('authz-simple lets one in', () => {
  const authorization = add({ 'qom-type': 'authz-simple', identity: 'CN=a' });
  assert.equal(isAllowed(authorization, 'CN=a'), true);
  for (const other of ['CN=A', 'CN=ab', 'O=x,CN=a', '']) assert.equal(isAllowed(authorization, other), false);
});

test('authz-list: the first rule that fits decides, and the policy for everybody else', () => {
  const rules = [
    { match: 'CN=bad', policy: 'deny' },
    { match: 'CN=*', policy: 'allow', format: 'glob' },
  ];
  const authorization = add({ 'qom-type': 'authz-list', rules });
  assert.equal(isAllowed(authorization, 'CN=bad'), false);
  assert.equal(isAllowed(authorization, 'CN=good'), true);
  assert.equal(isAllowed(authorization, 'O=good'), false);
  assert.equal(isAllowed(add({ 'qom-type': 'authz-list', policy: 'allow' }), 'anybody'), true);
});

test('matchesGlob() knows *, ?, sets and escapes', () => {
  for (const [pattern, text, expected] of [
    ['*', '', true],
    ['a*c', 'abbc', true],
    ['a*c', 'abbd', false],
    ['a?c', 'abc', true],
    ['a?c', 'ac', false],
    ['host[0-9]', 'host7', true],
    ['host[0-9]', 'hostx', false],
    ['host[!0-9]', 'hostx', true],
    ['a\\*', 'a*', true],
    ['a\\*', 'ab', false],
    ['[', '[', true],
    ['.+', 'ab', false],
  ] as const) {
    assert.equal(matchesGlob(pattern, text), expected, `${pattern} ${text}`);
  }
});

test('matchesGlob() takes no time that grows without bounds', () => {
  assert.equal(matchesGlob(`${'a*'.repeat(30)}b`, 'a'.repeat(4000)), false);
});

test('objects of authorization refuse what makes no sense', () => {
  for (const [properties, message] of [
    [{ 'qom-type': 'authz-simple' }, /"identity" is missing/],
    [{ 'qom-type': 'authz-list', rules: [{ policy: 'allow' }] }, /rules\.0: property "match" is missing/],
    [{ 'qom-type': 'authz-list', rules: [{ match: 'x', format: 're' }] }, /must be exact or glob/],
    [{ 'qom-type': 'authz-list', rules: [{ match: 'x', who: 'y' }] }, /"who" is not known/],
  ] as const) {
    assert.throws(() => add(properties), message);
  }
});
