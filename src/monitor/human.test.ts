import assert from 'node:assert/strict';
import { PassThrough } from 'node:stream';
import { test } from 'node:test';
import { FakeVm } from './fake-vm.ts';
import { HumanSession } from './human.ts';
import { MAX_LINE_BYTES } from './line-reader.ts';

const BANNER = "postcopy 1.2.3 monitor - type 'help' for more information\n(postcopy) ";

function setUp(vm = new FakeVm()) {
  const streams = { input: new PassThrough(), output: new PassThrough() };
  const quits: string[] = [];
  const quit = () => quits.push(String(streams.output.read()));
  return {
    vm,
    ...streams,
    quits,
    session: new HumanSession({ vm, version: '1.2.3', quit, interrupt() {} }, streams),
  };
}

test('HumanSession answers each line behind a prompt, the last also without an end of line', async () => {
  const { input, output, session } = setUp();
  input.end('\ninfo version\r\n  \nfoo');
  await session.ended;
  assert.equal(
    String(output.read()),
    `${BANNER}(postcopy) postcopy 1.2.3\n(postcopy) (postcopy) unknown command: 'foo'; try 'help'\n`,
  );
});

test('HumanSession runs lines one after the other, also when one waits', async () => {
  const { vm, input, output, session } = setUp();
  input.end('migrate tcp:h:1\nstop\n');
  while (vm.calls.length === 0) await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(vm.calls, ['migrate tcp:h:1']);
  vm.end('completed');
  await session.ended;
  assert.deepEqual(vm.calls, ['migrate tcp:h:1', 'stop']);
  assert.equal(String(output.read()), `${BANNER}(postcopy) (postcopy) `);
});

test('HumanSession refuses a line that is too long, and goes on', async () => {
  const { input, output, session } = setUp();
  input.end(`${'x'.repeat(MAX_LINE_BYTES + 1)}\ninfo version\n`);
  await session.ended;
  assert.equal(
    String(output.read()),
    `${BANNER}Line is longer than ${MAX_LINE_BYTES} bytes\n(postcopy) postcopy 1.2.3\n(postcopy) `,
  );
});

test('HumanSession lets the program quit once the answers are out, and not at the end of input', async () => {
  const { input, quits, session } = setUp();
  input.write('info version\nquit\n');
  input.end();
  await session.ended;
  assert.deepEqual(quits, [`${BANNER}postcopy 1.2.3\n(postcopy) (postcopy) `]);
  const other = setUp();
  other.input.end();
  await other.session.ended;
  assert.deepEqual(other.quits, []);
});

test('HumanSession survives a connection that breaks', async () => {
  const { input, session } = setUp();
  input.write('info sta');
  input.destroy(new Error('ECONNRESET'));
  await session.ended;
  session.close();
  session.close();
});

test('HumanSession lets migrate_cancel overtake a migrate that waits for the end', async () => {
  const { vm, input, quits, session } = setUp();
  input.end('migrate tcp:h:1\nmigrate_cancel\nquit\n');
  while (!vm.calls.includes('migrateCancel')) await new Promise((resolve) => setTimeout(resolve, 10));
  assert.deepEqual(vm.calls, ['migrate tcp:h:1', 'migrateCancel']);
  assert.deepEqual(quits, []);
  vm.end('cancelled');
  await session.ended;
  assert.equal(quits.length, 1, 'a quit waits for its turn: it would cut the migration off');
});
