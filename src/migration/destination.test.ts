import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodeAdvise, encodeCommand, MigrationCommand } from '../wire/commands.ts';
import { StreamError } from '../wire/stream-error.ts';
import {
  advise,
  advised,
  allPages,
  DestinationRig,
  devices,
  discard,
  eof,
  header,
  listen,
  openReturnPath,
  packaged,
  part,
  ping,
  ramEnd,
  ramStart,
  run,
  wholePackage,
} from './destination-rig.ts';

const DOWNTIME = { guestDowntimeUs: 1234, isExact: true };

/** A rig that has all pages but those two, and runs the guest. */
function runningGuest(options?: ConstructorParameters<typeof DestinationRig>[0]): DestinationRig {
  const rig = new DestinationRig(options);
  rig.receive(advised, allPages, discard(0, 1, 2), ping(2), wholePackage);
  rig.engine.devicesLoaded(rig.nowMs);
  rig.engine.guestResumed(DOWNTIME, rig.nowMs);
  rig.effects.length = 0;
  return rig;
}

test('DestinationMigration receives a precopy', () => {
  const rig = new DestinationRig();
  rig.receive(header, openReturnPath, ping(1), ramStart, allPages, part(0, { 1: 9 }), ramEnd, devices());
  assert.deepEqual(rig.effects, [
    'write 1 to pc.ram 0',
    'write 2 to pc.ram 1',
    'zero pc.ram 2',
    'write 4 to pc.ram 3',
    'zero vga.vram 0',
    'write 6 to vga.vram 1',
    'write 9 to pc.ram 1',
    'load ab',
  ]);
  assert.equal(rig.engine.free().length, 0, 'nothing is read while the devices are loaded');
  rig.engine.devicesLoaded(rig.nowMs);
  rig.receive(eof);
  assert.equal(rig.effects.at(-1), 'resume');
  assert.deepEqual(rig.answers, ['pong 1']);
  rig.engine.guestResumed(DOWNTIME, rig.nowMs);
  assert.deepEqual(rig.answers, ['pong 1', 'shut 0']);
  assert.deepEqual(rig.statuses, ['setup', 'active', 'completed']);
  assert.equal(rig.engine.info(rig.nowMs)['x-guest-downtime-us'], 1234);
  rig.engine.channelLost(undefined, rig.nowMs);
  assert.equal(rig.engine.status, 'completed');
});

test('DestinationMigration receives a postcopy, EOF after the guest runs', () => {
  const rig = new DestinationRig();
  rig.receive(advised, allPages, discard(0, 1, 1), discard(0, 3, 1), ping(2), wholePackage);
  assert.deepEqual(rig.effects, [
    'drop all',
    'write 1 to pc.ram 0',
    'write 2 to pc.ram 1',
    'zero pc.ram 2',
    'write 4 to pc.ram 3',
    'zero vga.vram 0',
    'write 6 to vga.vram 1',
    'prepare discards',
    'discard 1 of pc.ram 1',
    'discard 1 of pc.ram 3',
    'listen',
    'load ab',
  ]);
  rig.effects.length = 0;
  rig.receive(ping(4), part(0, { 3: 7 }));
  assert.deepEqual(rig.effects, ['place 7 at pc.ram 3'], 'pages are placed while devices are loaded');
  rig.engine.devicesLoaded(rig.nowMs);
  assert.deepEqual(rig.effects, ['place 7 at pc.ram 3', 'resume']);
  rig.engine.guestResumed(DOWNTIME, rig.nowMs);
  rig.receive(part(0, { 1: 0 }), ramEnd);
  rig.nowMs += 25;
  rig.receive(eof);
  assert.deepEqual(rig.effects.slice(2), ['place zero at pc.ram 1', 'end']);
  assert.deepEqual(rig.answers, ['pong 1', 'pong 2', 'pong 4', 'pong 3', 'shut 0']);
  assert.deepEqual(rig.statuses, ['setup', 'active', 'postcopy-device', 'postcopy-active', 'completed']);
  assert.equal(rig.engine.incomingState, 'end');
  assert.equal(rig.engine.info(rig.nowMs)['x-resident-ms'], 25);
});

test('DestinationMigration waits for the guest when EOF comes before it runs', () => {
  const rig = new DestinationRig();
  rig.receive(advised, allPages, discard(0, 1, 1), wholePackage, part(0, { 1: 1 }), ramEnd, eof);
  rig.engine.channelLost(undefined, rig.nowMs);
  assert.equal(rig.engine.status, 'postcopy-device', 'the source has nothing more to say: it may go');
  rig.engine.devicesLoaded(rig.nowMs);
  assert.equal(rig.effects.at(-1), 'resume');
  assert.ok(!rig.engine.isOver);
  rig.engine.guestResumed(DOWNTIME, rig.nowMs);
  assert.equal(rig.effects.at(-1), 'end');
  assert.equal(rig.engine.status, 'completed');
  assert.equal(rig.answers.at(-1), 'shut 0');
});

test('DestinationMigration leaves a guest paused that was paused at the source', () => {
  const rig = new DestinationRig();
  rig.receive(advised, packaged(listen, devices(false), run));
  rig.engine.devicesLoaded(rig.nowMs);
  assert.equal(rig.effects.at(-1), 'stay paused');
});

test('DestinationMigration drops pages that neither came nor were discarded before it listens', () => {
  const rig = new DestinationRig();
  rig.receive(advised, wholePackage);
  const dropped = ['discard 4 of pc.ram 0', 'discard 2 of vga.vram 0'];
  assert.deepEqual(rig.effects, ['drop all', 'prepare discards', ...dropped, 'listen', 'load ab']);
});

test('DestinationMigration tells pages that were asked for from pushed ones', () => {
  const rig = runningGuest();
  rig.requestTimes.setRequested(0, 1, rig.nowMs * 1000);
  rig.nowMs += 2;
  rig.receive(part(0, { 1: 1, 2: 2 }));
  const info = rig.engine.info(rig.nowMs);
  assert.equal(info['x-pages-demanded'], 1);
  assert.equal(info['x-pages-pushed'], 1);
  assert.equal(info['x-page-request-latency-us']?.count, 1);
  const latency = info['x-page-request-latency-us']?.p50 ?? 0;
  assert.ok(Math.abs(latency - 2000) <= 2, `2000 us, to three digits: ${latency}`);
});

/** What is refused before the guest runs here: how it came there, the text, and whether it could say so. */
const REFUSED: readonly (readonly [string, readonly Uint8Array[], RegExp])[] = [
  ['PING before OPEN_RETURN_PATH', [header, ping(1)], /PING has no place here: no return path is open/],
  ['ADVISE without a return path', [header, advise], /POSTCOPY_ADVISE came without a return path/],
  ['a second ADVISE', [header, openReturnPath, advise, advise], /postcopy was advised before/],
  ['ADVISE after RAM has started', [header, openReturnPath, ramStart, advise], /RAM has started/],
  [
    'DISCARD without ADVISE',
    [header, openReturnPath, ramStart, discard(0, 0, 1)],
    /postcopy was not advised/,
  ],
  ['a package without ADVISE', [header, openReturnPath, ramStart, wholePackage], /postcopy was not advised/],
  ['LISTEN outside a package', [advised, listen], /POSTCOPY_LISTEN has no place here/],
  ['RUN outside a package', [advised, run], /POSTCOPY_RUN has no place here/],
  [
    'POSTCOPY_RESUME',
    [advised, encodeCommand(MigrationCommand.POSTCOPY_RESUME)],
    /POSTCOPY_RESUME has no place/,
  ],
  [
    'a package without devices',
    [advised, packaged(listen, run)],
    /POSTCOPY_RUN came before the device state/,
  ],
  [
    'a package without devices and RUN',
    [advised, packaged(listen, ping(3))],
    /ended without the device state/,
  ],
  ['a package that is cut off', [advised, packaged(listen, devices().subarray(0, 9))], /in the middle of/],
  [
    'a second LISTEN',
    [advised, packaged(listen, listen)],
    /Postcopy cannot go from "listening" to "listening"/,
  ],
  ['host pages of another size', [header, openReturnPath, encodeAdvise(0x201000, 4096)], /Page sizes differ/],
  ['target pages of another size', [header, openReturnPath, encodeAdvise(4096, 8192)], /Page sizes differ/],
  ['EOF without devices', [header, openReturnPath, ramStart, ramEnd, eof], /without the device state/],
  ['another machine', [header.map((byte, at) => (at === 13 ? byte + 1 : byte))], /[Mm]achine type/],
];

for (const [what, pieces, text] of REFUSED) {
  test(`DestinationMigration refuses ${what}`, () => {
    const rig = new DestinationRig();
    rig.receive(...pieces);
    assert.equal(rig.engine.status, 'failed');
    assert.ok(rig.engine.error instanceof StreamError);
    assert.match(rig.engine.error.message, text);
    assert.ok(rig.engine.isOver);
    const isPathOpen = pieces.includes(openReturnPath) || pieces.includes(advised);
    assert.deepEqual(rig.answers.slice(-1), isPathOpen ? ['shut 1'] : []);
    assert.ok(!rig.effects.includes('resume'));
  });
}

test('DestinationMigration refuses a package that is loaded without LISTEN', () => {
  const rig = new DestinationRig();
  rig.receive(advised, packaged(devices(), run));
  rig.engine.devicesLoaded(rig.nowMs);
  assert.match(rig.engine.error?.message ?? '', /Postcopy cannot go from "advise" to "running"/);
  assert.equal(rig.engine.status, 'failed');
});

test('DestinationMigration says nothing after SHUT, whatever else came with what it refused', () => {
  const rig = new DestinationRig();
  rig.receive(advised, packaged(listen, run), ping(4), part(0, { 0: 1 }), ping(5));
  assert.deepEqual(rig.answers, ['pong 1', 'shut 1']);
  assert.ok(!rig.effects.some((effect) => effect.startsWith('place')));
  rig.receive(new Uint8Array(40_000));
  rig.engine.devicesLoaded(rig.nowMs);
  rig.engine.machineFailed(new Error('late'), rig.nowMs);
  assert.deepEqual(rig.statuses, ['setup', 'active', 'postcopy-device', 'failed']);
});

test('DestinationMigration refuses a return path where the channel has none', () => {
  const rig = new DestinationRig({ hasReturnPath: false });
  rig.receive(header, openReturnPath);
  assert.match(rig.engine.error?.message ?? '', /asks for a return path, which this channel has not/);
  assert.deepEqual(rig.answers, []);
});

test('DestinationMigration completes without a return path', () => {
  const rig = new DestinationRig({ hasReturnPath: false });
  rig.receive(header, ramStart, allPages, ramEnd, devices());
  rig.engine.devicesLoaded(rig.nowMs);
  rig.receive(eof);
  rig.engine.channelLost(undefined, rig.nowMs);
  rig.engine.guestResumed(DOWNTIME, rig.nowMs);
  assert.equal(rig.engine.status, 'completed');
  assert.deepEqual(rig.answers, []);
});

test('DestinationMigration refuses ADVISE where faults cannot be handled', () => {
  const rig = new DestinationRig({ postcopyError: new Error('no userfaultfd here') });
  rig.receive(header, openReturnPath, advise);
  assert.equal(rig.engine.error?.message, 'no userfaultfd here');
  assert.deepEqual(rig.answers, ['shut 1']);
  assert.ok(!rig.effects.includes('drop all'));
});

test('DestinationMigration refuses to run a guest whose pages were discarded and did not come again', () => {
  const rig = new DestinationRig();
  rig.receive(advised, allPages, discard(0, 1, 1), ramEnd, devices());
  rig.engine.devicesLoaded(rig.nowMs);
  rig.receive(eof);
  assert.equal(rig.engine.status, 'failed');
  assert.match(rig.engine.error?.message ?? '', /after pages were discarded/);
});

test('DestinationMigration lets what follows EOF change nothing', () => {
  for (const isTogether of [true, false]) {
    const rig = new DestinationRig();
    rig.receive(header, openReturnPath, ramStart, allPages, ramEnd, devices());
    rig.engine.devicesLoaded(rig.nowMs);
    const garbage = new Uint8Array(50).fill(0x77);
    if (isTogether) rig.receive(eof, garbage);
    else {
      rig.receive(eof);
      rig.receive(garbage);
    }
    assert.equal(rig.engine.status, 'active', 'the guest is on its way here');
    rig.engine.guestResumed(DOWNTIME, rig.nowMs);
    assert.equal(rig.engine.status, 'completed');
  }
});

test('DestinationMigration pauses when a page comes twice', () => {
  const rig = runningGuest();
  rig.receive(part(0, { 1: 1, 2: 2 }), part(0, { 1: 1 }));
  assert.equal(rig.engine.status, 'postcopy-paused');
  assert.match(
    rig.engine.error?.message ?? '',
    /The page at 4096 of "pc.ram" came although it is here already/,
  );
  assert.equal(rig.effects.filter((effect) => effect.startsWith('place')).length, 2);
});

test('DestinationMigration pauses when a page comes that was received in precopy and not discarded', () => {
  const rig = runningGuest();
  rig.receive(part(0, { 0: 1 }));
  assert.equal(rig.engine.status, 'postcopy-paused');
  assert.ok(!rig.effects.some((effect) => effect.startsWith('place')));
});

test('DestinationMigration pauses when memory says that a page is there', () => {
  const rig = runningGuest({ placement: 'exists' });
  rig.receive(part(0, { 1: 1 }));
  assert.equal(rig.engine.status, 'postcopy-paused');
});

test('DestinationMigration pauses when pages are missing at EOF', () => {
  const rig = runningGuest();
  rig.receive(part(0, { 1: 1 }), ramEnd, eof);
  assert.equal(rig.engine.status, 'postcopy-paused');
  assert.match(rig.engine.error?.message ?? '', /all is sent, but 1 pages never came/);
  assert.ok(!rig.effects.includes('end'));
});

test('DestinationMigration fails before RUN and pauses after it when the connection is lost', () => {
  const before = new DestinationRig();
  before.receive(advised, allPages);
  before.engine.channelLost(new Error('cable'), before.nowMs);
  before.engine.channelLost(undefined, before.nowMs);
  assert.deepEqual(before.statuses, ['setup', 'active', 'failed']);
  assert.deepEqual(before.answers, ['pong 1', 'shut 1']);

  const loading = new DestinationRig();
  loading.receive(advised, wholePackage);
  loading.engine.channelLost(undefined, loading.nowMs);
  assert.deepEqual(loading.statuses, ['setup', 'active', 'postcopy-device', 'failed']);
  loading.engine.devicesLoaded(loading.nowMs);
  assert.ok(!loading.effects.includes('resume'), 'the guest of a failed migration never runs');

  const after = runningGuest();
  after.engine.channelLost(undefined, after.nowMs);
  assert.equal(after.engine.status, 'postcopy-paused');
  assert.match(after.engine.error?.message ?? '', /needs one of 2 pages that are only at the source/);
  assert.ok(!after.answers.some((answer) => answer.startsWith('shut')));
  assert.ok(!after.effects.includes('end'), 'memory goes on waiting for pages');
});

test('DestinationMigration fails when the connection is lost in the middle of loading a precopy', () => {
  const rig = new DestinationRig();
  rig.receive(header, openReturnPath, ramStart, allPages, ramEnd, devices());
  rig.engine.channelLost(undefined, rig.nowMs);
  assert.equal(rig.engine.status, 'failed');
  assert.match(rig.engine.error?.message ?? '', /The source closed the connection/);
});

test('DestinationMigration.machineFailed() fails before RUN and pauses after it', () => {
  const precopy = new DestinationRig();
  precopy.receive(header, openReturnPath, ramStart, allPages, ramEnd, devices());
  precopy.engine.machineFailed(new Error('version 9'), precopy.nowMs);
  assert.equal(precopy.engine.status, 'failed');
  assert.equal(precopy.engine.error?.message, 'The device state could not be loaded: version 9');
  assert.deepEqual(precopy.answers, ['shut 1']);

  const loading = new DestinationRig();
  loading.receive(advised, wholePackage);
  loading.engine.machineFailed(new Error('version 9'), loading.nowMs);
  assert.equal(loading.engine.status, 'failed');
  assert.equal(loading.answers.at(-1), 'shut 1');

  const running = runningGuest();
  running.engine.machineFailed(new Error('no'), running.nowMs);
  assert.equal(running.engine.status, 'postcopy-paused');
});

test('DestinationMigration traces what it does', () => {
  const rig = runningGuest();
  rig.receive(part(0, { 1: 1, 2: 2 }), ramEnd, eof);
  assert.deepEqual([...new Set(rig.traces)].sort(), [
    'loadvm_process_command',
    'migrate_set_state',
    'postcopy_incoming_state',
    'postcopy_place_page',
    'postcopy_ram_discard_range',
    'qemu_loadvm_state_section',
    'send_rp_message',
  ]);
});

test('DestinationMigration takes the device state once, be it in the stream or in its package', () => {
  const rig = new DestinationRig();
  rig.receive(advised, allPages, devices());
  rig.engine.devicesLoaded(rig.nowMs);
  rig.receive(wholePackage);
  assert.equal(rig.engine.status, 'failed');
  assert.match(rig.engine.error?.message ?? '', /device state of the machine comes twice/);
  assert.deepEqual(
    rig.effects.filter((effect) => effect.startsWith('load')),
    ['load ab'],
  );
});

test('DestinationMigration names the place of a run state that cannot be read', () => {
  const sections = devices();
  const body = 1 + 4 + 1 + 'globalstate'.length + 4 + 4;
  sections[body + 3] = 200;
  const inStream = new DestinationRig();
  inStream.receive(header, openReturnPath);
  const before = header.length + openReturnPath.length;
  inStream.receive(sections);
  assert.match(
    inStream.engine.error?.message ?? '',
    new RegExp(`got 200 \\(stream byte ${before + body}\\)`),
  );
  const inPackage = new DestinationRig();
  inPackage.receive(advised, packaged(listen, sections, run));
  assert.match(
    inPackage.engine.error?.message ?? '',
    new RegExp(`got 200 \\(package byte ${listen.length + body}\\)`),
  );
});
