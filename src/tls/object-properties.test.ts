import assert from 'node:assert/strict';
import { test } from 'node:test';
import { checkObjectId, ObjectError, PropertyReader, parseObjectProperties } from './object-properties.ts';

test('parseObjectProperties() reads a type and its properties; a comma in a value is written twice', () => {
  assert.deepEqual(parseObjectProperties('authz-simple,id=a,identity=CN=x,,O=y'), {
    'qom-type': 'authz-simple',
    id: 'a',
    identity: 'CN=x,O=y',
  });
  assert.deepEqual(parseObjectProperties(' {"qom-type": "authz-list", "id": "a", "rules": []}'), {
    'qom-type': 'authz-list',
    id: 'a',
    rules: [],
  });
});

test('parseObjectProperties() reads lists, element by element', () => {
  const text = 'authz-list,id=a,rules.0.match=x,rules.0.policy=allow,rules.1.match=y';
  assert.deepEqual(parseObjectProperties(text)['rules'], [{ match: 'x', policy: 'allow' }, { match: 'y' }]);
});

test('parseObjectProperties() refuses what is not of that form', () => {
  for (const [text, message] of [
    ['authz-simple,id', /NAME=VALUE, got "id"/],
    ['authz-simple,id=a,id=b', /"id" is there twice/],
    ['authz-list,rules.1.match=x', /numbered from 0, without gaps/],
    ['authz-list,__proto__.0.match=x', /numbered from 0/],
    ['authz-list,rules=x,rules.0.match=x', /numbered from 0/],
    ['{"id": ', /begin like JSON/],
  ] as const) {
    assert.throws(
      () => parseObjectProperties(text),
      (error) => error instanceof ObjectError && message.test(error.message),
    );
  }
});

test('PropertyReader gives each property once, checked, and refuses what is left', () => {
  const reader = new PropertyReader('Object "a"', {
    dir: '/x',
    on: 'on',
    off: false,
    policy: 'deny',
    extra: 1,
  });
  assert.equal(reader.text('dir'), '/x');
  assert.equal(reader.switch('on', false), true);
  assert.equal(reader.switch('off', true), false);
  assert.equal(reader.switch('absent', true), true);
  assert.equal(reader.oneOf('policy', ['allow', 'deny'], 'allow'), 'deny');
  assert.throws(() => reader.end(), new ObjectError('Object "a": property "extra" is not known'));
  const wrong = new PropertyReader('Object "b"', { dir: 1, on: 'perhaps', policy: 'x', rules: [1] });
  assert.throws(() => wrong.text('dir'), /Object "b": property "dir" must be text/);
  assert.throws(() => wrong.text('dir'), /property "dir" is missing/);
  assert.throws(() => wrong.switch('on', false), /must be on or off, got "perhaps"/);
  assert.throws(() => wrong.oneOf('policy', ['allow', 'deny'], 'deny'), /must be allow or deny, got "x"/);
  assert.throws(() => wrong.list('rules'), /must be a list/);
});

test('checkObjectId() takes names that need no quotes', () => {
  assert.equal(checkObjectId('tls0'), 'tls0');
  for (const id of [undefined, '', '0', 'a b', 'a,b', 5]) assert.throws(() => checkObjectId(id), ObjectError);
});
