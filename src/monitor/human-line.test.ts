import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CAPABILITIES } from '../migration/capabilities.ts';
import { PARAMETER_NAMES } from '../migration/parameters.ts';
import { VmError } from '../vm/vm.ts';
import { FakeVm } from './fake-vm.ts';
import { runHumanLine, splitWords } from './human-line.ts';
import { createContext } from './session.ts';

const setUp = () => {
  const vm = new FakeVm();
  let quits = 0;
  const { context, quitIfAsked } = createContext({
    vm,
    version: '1.2.3',
    quit() {
      quits++;
    },
    interrupt() {},
  });
  return { vm, run: (line: string) => runHumanLine(context, line), quitIfAsked, quits: () => quits };
};

test('splitWords() parts words at blanks and keeps quoted ones whole', () => {
  assert.deepEqual(splitWords(''), []);
  assert.deepEqual(splitWords('  \t'), []);
  assert.deepEqual(splitWords(' migrate  -d\ttcp:h:1 '), ['migrate', '-d', 'tcp:h:1']);
  assert.deepEqual(splitWords('migrate "exec:cat > f"'), ['migrate', 'exec:cat > f']);
  assert.deepEqual(splitWords('x ""'), ['x', '']);
  assert.deepEqual(splitWords('x "a\\"b\\\\c\\n" y'), ['x', 'a"b\\c\n', 'y']);
  assert.deepEqual(splitWords('x a"b'), ['x', 'a"b']);
  assert.throws(() => splitWords('x "abc'), {
    message: 'Quote must be closed and followed by a blank: "abc',
  });
  assert.throws(() => splitWords('x "a"b'), {
    message: 'Quote must be closed and followed by a blank: "a"b',
  });
  assert.throws(() => splitWords('x "\\q"'), { message: 'Unsupported escape: \\q' });
});

test('runHumanLine() hands arguments to the machine', async () => {
  const { vm, run } = setUp();
  const lines: [line: string, call: string][] = [
    ['migrate -d tcp:h:1', 'migrate tcp:h:1'],
    ['migrate -d "exec:cat > f"', 'migrate exec:cat > f'],
    ['migrate_cancel', 'migrateCancel'],
    ['migrate_incoming unix:/s', 'migrateIncoming unix:/s'],
    ['migrate_set_capability postcopy-ram on', 'setCapabilities {"postcopy-ram":true}'],
    ['migrate_start_postcopy', 'migrateStartPostcopy'],
    ['migrate_set_parameter max-bandwidth 2', 'setParameters {"max-bandwidth":2097152}'],
    ['migrate_set_parameter max-bandwidth 1.5G', 'setParameters {"max-bandwidth":1610612736}'],
    ['migrate_set_parameter downtime-limit 50', 'setParameters {"downtime-limit":50}'],
    ['migrate_set_parameter tls-creds tls0', 'setParameters {"tls-creds":"tls0"}'],
    [
      'object_add tls-creds-psk,id=tls0,dir=/a b',
      'addObject {"qom-type":"tls-creds-psk","id":"tls0","dir":"/a b"}',
    ],
    ['object_del tls0', 'removeObject tls0'],
    ['pmemsave 0x1000 4K "a file"', 'saveMemory 4096 4096 a file'],
    ['stop', 'stop'],
    ['s', 'stop'],
    ['c', 'cont'],
    ['cont', 'cont'],
  ];
  for (const [line, call] of lines) {
    assert.equal(await run(line), '', line);
    assert.equal(vm.calls.pop(), call, line);
  }
});

test('runHumanLine() asks to quit, but only after the reply', async () => {
  for (const line of ['q', 'quit']) {
    const { run, quits, quitIfAsked } = setUp();
    assert.equal(await run(line), '');
    assert.equal(quits(), 0);
    quitIfAsked();
    assert.equal(quits(), 1);
  }
});

test('migrate without -d waits until the migration is over', async () => {
  const { vm, run } = setUp();
  let isDone = false;
  const running = run('migrate tcp:h:1').then((text) => {
    isDone = true;
    return text;
  });
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(isDone, false);
  vm.end('completed');
  assert.equal(await running, '');
});

test('migrate without -d says why the migration failed', async () => {
  const { vm, run } = setUp();
  vm.info = { status: 'failed', 'error-desc': 'Connection reset' };
  let running = run('migrate tcp:h:1');
  await new Promise((resolve) => setImmediate(resolve));
  vm.end('failed');
  assert.equal(await running, 'Error: Connection reset');
  vm.info = {};
  running = run('migrate tcp:h:1');
  await new Promise((resolve) => setImmediate(resolve));
  vm.end('postcopy-paused');
  assert.equal(await running, 'Error: The migration ended as "postcopy-paused"');
});

test('info commands print what QEMU prints', async () => {
  const { vm, run } = setUp();
  assert.equal(await run('info status'), 'VM status: running');
  vm.setRunState('paused');
  assert.equal(await run('info status'), 'VM status: paused');
  vm.setRunState('inmigrate');
  assert.equal(await run('info status'), 'VM status: paused (inmigrate)');
  assert.equal(await run('info version'), 'postcopy 1.2.3');
  assert.match(await run('info migrate_capabilities'), /^events: off\npostcopy-ram: off(\n[a-z-]+: off)*$/);
  assert.match(
    await run('info migrate_parameters'),
    /^max-bandwidth: 134217728 bytes\/second\n.*\ndowntime-limit: 300 ms(\n|$)/,
  );
  assert.equal(
    await run('info ramblock'),
    [
      '              Block Name    PSize              Offset               Used              Total',
      '                  pc.ram    4 KiB  0x0000000000000000 0x0000000001000000 0x0000000001000000',
      '                vga.vram    4 KiB  0x0000000001000000 0x0000000000100000 0x0000000000100000',
    ].join('\n'),
  );
  assert.equal(await run('info migrate_bitmap pc.ram'), 'pc.ram\n.1.1');
  assert.equal(await run('trace-event migrate_pending on'), '');
  assert.equal(
    await run('info trace-events migrate_*'),
    'migrate_set_state : state 0\nmigrate_pending : state 1',
  );
  assert.equal((await run('info trace-events')).split('\n').length, 24);
});

test('help lists the commands, and explains one', async () => {
  const { run } = setUp();
  assert.equal(
    await run('help migrate'),
    'migrate [-d] [-r] uri -- move the guest to URI (-d: do not wait until it is over; -r: go on with a postcopy that is paused)',
  );
  assert.equal(await run('? c'), 'cont|c -- let the guest run on');
  assert.equal(await run('help info status'), 'info status -- show whether the guest runs');
  const all = await run('help');
  assert.match(all, /^cont\|c -- .*\n/);
  assert.match(all, /\nquit\|q -- end the machine and this program\n/);
  assert.match(all, /\ninfo \[topic\] -- /);
  assert.match(all, /Ctrl-D at a terminal, does not end the machine/);
  assert.doesNotMatch(all, /info migrate/);
  assert.match(await run('info'), /^info migrate -- .*\n(.*\n)*info version -- [^\n]*$/);
  assert.equal(await run('help info'), await run('info'));
});

test('runHumanLine() says what is wrong with a line', async () => {
  const { vm, run } = setUp();
  const refused: [line: string, text: string][] = [
    ['foo', "unknown command: 'foo'; try 'help'"],
    ['migrat tcp:h:1', "unknown command: 'migrat'; try 'help'"],
    ['info foo', "unknown command: 'info foo'; try 'help info'"],
    ['help foo', "Error: unknown command: 'foo'; try 'help'"],
    ['migrate', 'migrate: uri is missing\nTry "help migrate" for more information'],
    ['migrate -d', 'migrate: uri is missing\nTry "help migrate" for more information'],
    ['migrate -z x', 'migrate: unsupported option -z\nTry "help migrate" for more information'],
    ['migrate - x', 'migrate: unsupported option -\nTry "help migrate" for more information'],
    ['migrate a b c', 'migrate: unexpected argument "b c"\nTry "help migrate" for more information'],
    ['migrate "a', 'Quote must be closed and followed by a blank: "a'],
    ['info status x', 'info status: unexpected argument "x"\nTry "help info status" for more information'],
    [
      'migrate_set_capability events maybe',
      `migrate_set_capability: state: Expected 'on' or 'off', got "maybe"\nTry "help migrate_set_capability" for more information`,
    ],
    [
      'migrate_set_capability nope on',
      `Error: No capability is named "nope"; there are: ${Object.keys(CAPABILITIES).join(', ')}`,
    ],
    [
      'migrate_set_parameter nope 1',
      `Error: No parameter is named "nope"; there are: ${PARAMETER_NAMES.join(', ')}`,
    ],
    [
      'migrate_set_parameter downtime-limit x',
      'Error: Parameter "downtime-limit" must be a whole number of ms, got "x"',
    ],
    [
      'pmemsave x 1 f',
      'pmemsave: val: Size must be a whole number of bytes with an optional suffix K, M, G or T, got "x"\nTry "help pmemsave" for more information',
    ],
    ['info migrate_bitmap x', 'Error: No RAM block is named "x"; there are: pc.ram, vga.vram'],
    ['trace-event nope on', 'Error: unknown event "nope"'],
    ['migrate_start_postcopy', 'Error: Enable postcopy first'],
  ];
  for (const [line, text] of refused) assert.equal(await run(line), text, line);
  assert.deepEqual(vm.calls, ['migrateStartPostcopy']);
});

test('runHumanLine() tells failures of the machine from mistakes of ours', async () => {
  const { vm, run } = setUp();
  vm.failure = new VmError('The guest runs elsewhere');
  assert.equal(await run('cont'), 'Error: The guest runs elsewhere');
  vm.failure = Object.assign(new Error('open /x: ENOENT'), { code: 'ENOENT', syscall: 'open' });
  assert.equal(await run('pmemsave 0 1 /x'), 'Error: open /x: ENOENT');
  vm.failure = new TypeError('x is not a function');
  assert.equal(await run('cont'), 'Error: internal error: x is not a function');
});
