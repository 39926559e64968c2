import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import { canMigrate, checksAsJson, checksAsText } from './doctor.ts';
import { type Check, checkHost } from './doctor-checks.ts';

const check = (name: string, isOk: boolean, isNeeded: boolean): Check => ({
  name,
  isOk,
  found: `${name} found`,
  meaning: 'what it means',
  isNeeded,
});

test('canMigrate() asks only for what is needed', () => {
  assert.equal(canMigrate([check('a', true, true), check('b', false, false)]), true);
  assert.equal(canMigrate([check('a', false, true)]), false);
});

test('checksAsText() gives a line to each check, and the outcome', () => {
  assert.equal(
    checksAsText([check('kernel', true, true), check('qemu', false, false)]),
    'ok  kernel  kernel found (what it means)\nno  qemu    qemu found (what it means)\n\nThis host can migrate the built-in machine both ways.\n',
  );
  assert.match(
    checksAsText([check('a', false, true), check('b', false, true)]),
    /\nThis host cannot: a, b\.\n$/,
  );
});

test('checksAsJson() gives the same to programs', () => {
  assert.deepEqual(JSON.parse(checksAsJson([check('qemu', false, false)])), {
    ok: true,
    checks: [{ name: 'qemu', ok: false, found: 'qemu found', meaning: 'what it means', needed: false }],
  });
});

test('checkHost() finds what this host has without failing', () => {
  const checks = checkHost();
  assert.equal(checks.find(({ name }) => name === 'kernel')?.isOk, true);
  assert.equal(checks.find(({ name }) => name === 'node')?.isOk, true);
  for (const { found, meaning } of checks) assert.ok(found !== '' && meaning !== '' && !found.includes('\n'));
});

test('checkHost() shows the size of a page of the host, and refuses another than 4096', () => {
  const pageBytes = execFileSync('getconf', ['PAGESIZE'], { encoding: 'utf8' }).trim();
  const { isOk, isNeeded, found } = checkHost().find(({ name }) => name === 'page-size') as Check;
  assert.deepEqual(
    { isOk, isNeeded, found },
    { isOk: pageBytes === '4096', isNeeded: true, found: `${pageBytes} bytes` },
  );
});
