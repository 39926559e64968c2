import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';

const SCRIPT = `import(${JSON.stringify(new URL('./main.js', import.meta.url).href)})
  .then(({ main }) => main(['node', 'postcopy', ...JSON.parse(process.env.ARGUMENTS)]))`;

const run = (...words: string[]) => {
  const { status, stdout, stderr } = spawnSync(process.execPath, ['-e', SCRIPT], {
    encoding: 'utf8',
    env: { ...process.env, ARGUMENTS: JSON.stringify(words), POSTCOPY_DEBUG: '' },
    timeout: 30_000,
    input: '',
  });
  return { status, stdout, stderr };
};

test('main() prints version and help, and is content', () => {
  const version = run('--version');
  assert.match(version.stdout, /^\d+\.\d+\.\d+\n$/);
  assert.equal(version.status, 0);
  const help = run('run', '--help');
  assert.match(help.stdout, /--incoming <uri>(.*\n)*Examples:/);
  assert.equal(help.status, 0);
});

test('main() exits with 2 on wrong usage, and says what would do', () => {
  const refused: [words: string[], text: RegExp][] = [
    [[], /^Usage: postcopy /],
    [['foo'], /^postcopy: unknown command 'foo'\nTry "postcopy --help"/],
    [['run', '--foo'], /^postcopy: unknown option '--foo'\nTry "postcopy run --help"\.\n$/],
    [['run', '--guest'], /^postcopy: option '--guest <name>' argument missing\nTry /],
    [
      ['run', '--guest', 'foo'],
      /^postcopy: --guest: must be counter, random, reader, got "foo"\nTry "postcopy run --help"\.\n$/,
    ],
    [
      ['migrate', '--qmp', 'a'],
      /^postcopy: Both monitors are needed: .*\nTry "postcopy migrate --help"\.\n$/,
    ],
    [
      ['run', '--guest', 'counter', 'foo'],
      /^postcopy: too many arguments for 'run'\. Expected 0 arguments but got 1/,
    ],
    [
      ['demo', '--bandwidth', '0'],
      /^postcopy: option '--bandwidth <size>' argument '0' is invalid\. It must be /,
    ],
  ];
  for (const [words, text] of refused) {
    const { status, stdout, stderr } = run(...words);
    assert.match(stderr, text, words.join(' '));
    assert.equal(status, 2, words.join(' '));
    assert.equal(stdout, '', words.join(' '));
  }
});

test('main() runs the doctor, whose exit code is the outcome', () => {
  const { status, stdout } = run('doctor', '--json');
  const report = JSON.parse(stdout) as { ok: boolean; checks: unknown[] };
  assert.ok(report.checks.length > 5);
  assert.equal(status, report.ok ? 0 : 1);
});

test('main() exits with 2 when an address is none', () => {
  const { status, stderr } = run('run', '--memory', '32M', '--incoming', 'foo:1', '--serial', 'null');
  assert.match(stderr, /^postcopy: --incoming: Bad migration URI "foo:1": /);
  assert.equal(status, 2);
});

test('main() exits with 1 and one line when the operation fails', () => {
  const { status, stderr } = run(
    'run',
    '--memory',
    '32M',
    '--incoming',
    'unix:/nonexistent/x',
    '--serial',
    'null',
  );
  assert.match(stderr, /^postcopy: [^\n]*\/nonexistent\/x[^\n]*\n$/);
  assert.equal(status, 1);
});
