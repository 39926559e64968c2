import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PageBitmap } from '../memory/page-bitmap.ts';
import { PingValue } from '../wire/commands.ts';
import { encodePong, encodeReqPages, encodeReqPagesId, encodeShut } from '../wire/return-path.ts';
import { MigrationError } from './migration-error.ts';
import { DEFAULT_PARAMETERS } from './parameters.ts';
import { SourceRig } from './source-rig.ts';

const PAGE = 4096;

/** One PONG for the newest ping of the engine's own: with `rig.words` the count of pings is known. */
function pongAll(rig: SourceRig): void {
  const sent = rig.words.filter((word) => word === 'ping n').length;
  for (let index = 0; index < sent; index++) rig.engine.receive(encodePong(0x1000 + index), rig.nowMs);
}

/** Answers pings and sends until the migration has nothing more to send. */
function drain(rig: SourceRig): void {
  for (let round = 0; round < 100; round++) {
    rig.sendAll();
    pongAll(rig);
  }
}

test('SourceMigration sends precopy in the order of the protocol', () => {
  const rig = new SourceRig({ blocks: { 'pc.ram': 3, 'vga.vram': 2 }, isPostcopyOn: false });
  rig.write(0, 0, 5);
  rig.write(0, 2, 0);
  rig.write(1, 1, 6);
  rig.startAndConverge();
  assert.deepEqual(rig.words, [
    'configuration rig-1',
    'open-return-path',
    'ping 1',
    'start',
    'blocks pc.ram vga.vram',
    'ping n',
    'part',
    'page pc.ram 0',
    'zero pc.ram 1',
    'zero pc.ram 2',
    'zero vga.vram 0',
    'page vga.vram 1',
    'ping n',
  ]);
  assert.deepEqual(rig.effects, ['track', 'pass 1', 'pause']);

  rig.write(0, 1, 9);
  rig.engine.guestPaused(true);
  assert.deepEqual(rig.sendAll(), ['end', 'page pc.ram 1']);
  assert.deepEqual(rig.effects, ['track', 'pass 1', 'pause', 'untrack', 'pass 2', 'save']);
  rig.engine.devicesSaved(Uint8Array.of(1, 2, 3), rig.nowMs);
  assert.deepEqual(rig.sendAll(), ['full globalstate', 'full rig', 'eof', 'vm description']);
  assert.ok(rig.engine.isFlushed);
  rig.engine.receive(encodeShut(0), rig.nowMs);
  assert.deepEqual(rig.statuses, ['setup', 'active', 'device', 'completed']);
  assert.ok(!rig.effects.includes('resume'));
});

test('SourceMigration sends postcopy in the order of the protocol', () => {
  const rig = new SourceRig({ blocks: { 'pc.ram': 5, 'vga.vram': 2 }, parameters: { 'downtime-limit': 0 } });
  rig.writeAll();
  rig.engine.start(rig.nowMs);
  rig.write(0, 1, 2);
  rig.send();
  rig.nowMs += 10;
  rig.send();
  assert.deepEqual(rig.words, [
    'configuration rig-1',
    'open-return-path',
    'ping 1',
    'postcopy-advise',
    'start',
    'blocks pc.ram vga.vram',
    'ping n',
    'part',
    ...[0, 1, 2, 3, 4].map((page) => `page pc.ram ${page}`),
    'page vga.vram 0',
    'page vga.vram 1',
    'ping n',
  ]);
  rig.engine.startPostcopy();
  rig.sendAll();
  rig.write(0, 1, 2);
  rig.write(0, 2, 2);
  rig.write(0, 4, 2);
  rig.engine.guestPaused(true);
  assert.deepEqual(rig.sendAll(), [], 'nothing goes out while the devices are saved');
  rig.engine.devicesSaved(Uint8Array.of(1), rig.nowMs);
  assert.deepEqual(rig.send(), [
    'discard pc.ram 1+2',
    'discard pc.ram 4+1',
    'ping 2',
    'packaged [',
    '  postcopy-listen',
    '  full globalstate',
    '  full rig',
    '  ping 3',
    '  ping 66',
    '  postcopy-run',
    ']',
    'ping 4',
  ]);
  assert.equal(rig.engine.status, 'postcopy-active');
  assert.deepEqual(rig.sendAll(), [
    'part',
    'page pc.ram 1',
    'page pc.ram 2',
    'page pc.ram 4',
    'ping n',
    'end',
    'eof',
  ]);
  rig.engine.receive(encodeShut(0), rig.nowMs);
  assert.deepEqual(rig.statuses, ['setup', 'active', 'device', 'postcopy-active', 'completed']);
});

test('SourceMigration begins the package with LISTEN and ends it with PING 3, PING 0x42 and RUN', () => {
  const rig = new SourceRig();
  rig.switchToPostcopy();
  const stream = Buffer.concat(rig.stream);
  const header = stream.indexOf(Buffer.from('080007', 'hex'));
  const lengthBytes = stream.readUInt32BE(header + 5);
  const content = stream.subarray(header + 9, header + 9 + lengthBytes).toString('hex');
  assert.equal(stream.subarray(header, header + 5).toString('hex'), '0800070004');
  assert.match(content, /^0800040000/);
  assert.match(content, /080002000400000003080002000400000042080005 ?0000$/);
});

test('SourceMigration names the block again at the start of postcopy', () => {
  const rig = new SourceRig({ blocks: { 'pc.ram': 2 } });
  rig.switchToPostcopy();
  const before = Buffer.concat(rig.stream).length;
  rig.send();
  const record = Buffer.concat(rig.stream)
    .subarray(before, before + 20)
    .toString('latin1');
  assert.ok(record.includes('pc.ram'), 'the first record of postcopy is no CONTINUE');
});

test('SourceMigration never reads a page that was not touched', () => {
  const rig = new SourceRig({ blocks: { 'pc.ram': 64 }, isPostcopyOn: false });
  rig.write(0, 9, 1);
  rig.startAndConverge();
  rig.engine.guestPaused(true);
  rig.sendAll();
  assert.equal(rig.words.filter((word) => word.startsWith('zero')).length, 63);
  assert.equal(rig.words.filter((word) => word.startsWith('page')).length, 1);
});

test('SourceMigration makes passes until what remains fits into downtime-limit', () => {
  const rig = new SourceRig({
    blocks: { 'pc.ram': 64 },
    isPostcopyOn: false,
    parameters: { 'downtime-limit': 100, 'max-bandwidth': 64 * PAGE },
  });
  rig.writeAll();
  rig.engine.start(rig.nowMs);
  for (let pass = 0; pass < 2; pass++) {
    // 64 pages a second, 100 ms: 6 pages may remain, 20 may not.
    const until = rig.nowMs + (pass === 0 ? 1100 : 500);
    for (; rig.nowMs < until && !rig.effects.includes(`pass ${pass + 2}`); rig.nowMs += 5) {
      for (let page = 0; page < 20; page++) rig.write(0, page, rig.nowMs & 0xff);
      rig.send();
    }
    assert.ok(rig.effects.includes(`pass ${pass + 2}`), `pass ${pass + 2} begins`);
  }
  assert.ok(!rig.effects.includes('pause'));
  const info = rig.engine.info(rig.nowMs);
  assert.ok((info.ram?.['dirty-pages-rate'] ?? 0) > 20);
  for (const until = rig.nowMs + 2000; rig.nowMs < until && !rig.effects.includes('pause'); rig.nowMs += 5)
    rig.sendAll();
  assert.ok(rig.effects.includes('pause'), 'once the guest is quiet it converges');
});

test('SourceMigration switches by itself at x-postcopy-start-time', () => {
  const parameters = { 'x-postcopy-start-time': 500, 'max-bandwidth': 20 * PAGE };
  const rig = new SourceRig({ blocks: { 'pc.ram': 64 }, parameters });
  rig.writeAll();
  rig.engine.start(rig.nowMs);
  rig.send();
  rig.nowMs += 499;
  rig.send();
  assert.equal(rig.engine.status, 'active');
  assert.ok(rig.engine.wakeAtMs(rig.nowMs) <= 1500);
  rig.nowMs += 1;
  rig.send();
  rig.answerPings();
  assert.deepEqual(rig.effects.slice(-1), ['pause']);
  rig.engine.guestPaused(true);
  rig.engine.devicesSaved(Uint8Array.of(1), rig.nowMs);
  rig.sendAll();
  assert.equal(rig.engine.info(rig.nowMs)['x-postcopy-cause'], 'start-time');
});

test('SourceMigration pauses the guest only when the destination has decoded what is under way', () => {
  for (const isPostcopyOn of [true, false]) {
    const rig = new SourceRig({ isPostcopyOn, parameters: { 'downtime-limit': 1000 } });
    rig.writeAll();
    rig.engine.start(rig.nowMs);
    rig.send();
    if (isPostcopyOn) rig.engine.startPostcopy();
    rig.nowMs += 10;
    while (rig.send().length > 0) {}
    assert.ok(!rig.effects.includes('pause'));
    rig.answerPings();
    assert.ok(rig.effects.includes('pause'));
  }
});

test('SourceMigration does not switch when precopy converges first', () => {
  const rig = new SourceRig({ parameters: { 'x-postcopy-start-time': 500 } });
  rig.writeAll();
  rig.startAndConverge();
  rig.nowMs += 1000;
  rig.engine.guestPaused(true);
  rig.sendAll();
  rig.engine.devicesSaved(Uint8Array.of(1), rig.nowMs);
  rig.sendAll();
  rig.engine.receive(encodeShut(0), rig.nowMs);
  assert.deepEqual(rig.statuses, ['setup', 'active', 'device', 'completed']);
  assert.equal(rig.engine.info(rig.nowMs)['x-postcopy-cause'], undefined);
});

test('SourceMigration refuses to switch without the capability, and outside precopy', () => {
  const without = new SourceRig({ isPostcopyOn: false });
  without.engine.start(without.nowMs);
  assert.throws(() => without.engine.startPostcopy(), /migrate_set_capability before the start of migration/);
  const rig = new SourceRig();
  rig.startAndConverge();
  assert.throws(() => rig.engine.startPostcopy(), /only precopy can switch/);
  assert.throws(() => new SourceRig({ hasReturnPath: false }), /Postcopy needs a return path/);
});

/** Where a migration stands, and whether the guest was paused there. */
const BEFORE_HANDOVER: readonly (readonly [
  string,
  (rig: SourceRig, wasRunning: boolean) => void,
  boolean,
])[] = [
  ['setup', (rig) => rig.engine.start(rig.nowMs), false],
  [
    'precopy',
    (rig) => {
      rig.engine.start(rig.nowMs);
      rig.send(16 * 1024);
    },
    false,
  ],
  [
    'the final section',
    (rig, wasRunning) => {
      rig.startAndConverge();
      rig.engine.guestPaused(wasRunning);
    },
    true,
  ],
  [
    'saving',
    (rig, wasRunning) => {
      rig.startAndConverge();
      rig.engine.guestPaused(wasRunning);
      rig.sendAll();
    },
    true,
  ],
  [
    'the handover',
    (rig, wasRunning) => {
      rig.engine.start(rig.nowMs);
      rig.engine.startPostcopy();
      rig.sendAll();
      rig.engine.guestPaused(wasRunning);
      rig.engine.devicesSaved(new Uint8Array(60_000), rig.nowMs);
      rig.send(16 * 1024);
    },
    true,
  ],
  [
    'the tail of precopy',
    (rig, wasRunning) => {
      rig.startAndConverge();
      rig.engine.guestPaused(wasRunning);
      rig.sendAll();
      rig.engine.devicesSaved(new Uint8Array(60_000), rig.nowMs);
      rig.send(16 * 1024);
    },
    true,
  ],
];

for (const [where, reach, isPaused] of BEFORE_HANDOVER) {
  for (const wasRunning of [true, false]) {
    const guest = wasRunning ? 'a running' : 'a paused';
    const expected = isPaused && wasRunning ? ['resume'] : [];
    const given = (rig: SourceRig) => rig.effects.filter((effect) => effect === 'resume');

    test(`SourceMigration.cancel() in ${where} gives ${guest} guest back`, () => {
      const rig = new SourceRig();
      rig.writeAll();
      reach(rig, wasRunning);
      rig.engine.cancel(rig.nowMs);
      assert.deepEqual(given(rig), expected);
      assert.deepEqual(rig.statuses.slice(-2), ['cancelling', 'cancelled']);
      rig.engine.cancel(rig.nowMs);
      assert.deepEqual(given(rig), expected, 'twice is once');
    });

    test(`SourceMigration.channelLost() in ${where} gives ${guest} guest back`, () => {
      const rig = new SourceRig();
      rig.writeAll();
      reach(rig, wasRunning);
      rig.engine.channelLost(new Error('cable'), rig.nowMs);
      assert.deepEqual(given(rig), expected);
      assert.equal(rig.engine.status, 'failed');
      assert.match(rig.engine.error?.message ?? '', /before the guest was handed over: cable/);
      assert.ok(rig.effects.includes('untrack'));
    });

    test(`SourceMigration: SHUT(1) in ${where} gives ${guest} guest back`, () => {
      const rig = new SourceRig();
      rig.writeAll();
      reach(rig, wasRunning);
      rig.engine.receive(Buffer.concat([encodeShut(1), encodeShut(1)]), rig.nowMs);
      assert.deepEqual(given(rig), expected);
      assert.equal(rig.engine.status, 'failed');
    });

    test(`SourceMigration: SHUT(0) in ${where} is too early, and gives ${guest} guest back`, () => {
      const rig = new SourceRig();
      rig.writeAll();
      reach(rig, wasRunning);
      rig.engine.receive(encodeShut(0), rig.nowMs);
      assert.deepEqual(given(rig), expected);
      assert.equal(rig.engine.status, 'failed');
      assert.match(rig.engine.error?.message ?? '', /before it can be/);
    });
  }
}

test('SourceMigration gives back a guest that is paused only after the end', () => {
  for (const wasRunning of [true, false]) {
    const rig = new SourceRig();
    rig.startAndConverge();
    rig.engine.cancel(rig.nowMs);
    assert.ok(!rig.effects.includes('resume'));
    rig.engine.guestPaused(wasRunning);
    assert.equal(rig.effects.includes('resume'), wasRunning);
    rig.engine.devicesSaved(Uint8Array.of(1), rig.nowMs);
    assert.deepEqual(rig.send(), []);
  }
});

test('SourceMigration.machineFailed() fails the migration and gives the guest back', () => {
  const rig = new SourceRig();
  rig.startAndConverge();
  rig.engine.guestPaused(true);
  rig.sendAll();
  rig.engine.machineFailed(new Error('disk full'), rig.nowMs);
  rig.engine.machineFailed(new Error('again'), rig.nowMs);
  assert.equal(rig.engine.status, 'failed');
  assert.ok(rig.engine.error?.cause instanceof Error);
  assert.equal(rig.engine.error.cause.message, 'disk full');
  assert.equal(rig.effects.filter((effect) => effect === 'resume').length, 1);
});

test('SourceMigration cannot take the guest back once the last byte that matters has left', () => {
  const postcopy = new SourceRig();
  postcopy.switchToPostcopy();
  assert.throws(
    () => postcopy.engine.cancel(0),
    new MigrationError('Postcopy migration in progress, cannot cancel.'),
  );
  postcopy.engine.receive(encodePong(PingValue.IN_PACKAGE), postcopy.nowMs);
  postcopy.engine.channelLost(undefined, postcopy.nowMs);
  assert.equal(postcopy.engine.status, 'postcopy-paused');
  assert.ok(postcopy.engine.isGuestElsewhere);
  assert.match(postcopy.engine.error?.message ?? '', /at least 8 pages of it are only here/);
  assert.ok(!postcopy.effects.includes('resume'));

  const precopy = new SourceRig();
  precopy.startAndConverge();
  precopy.engine.guestPaused(true);
  precopy.sendAll();
  precopy.engine.devicesSaved(Uint8Array.of(1), precopy.nowMs);
  precopy.sendAll();
  assert.throws(() => precopy.engine.cancel(0), /too late to cancel/);
  precopy.engine.channelLost(undefined, precopy.nowMs);
  assert.equal(precopy.engine.status, 'failed');
  assert.match(precopy.engine.error?.message ?? '', /It may run the guest/);
  assert.ok(!precopy.effects.includes('resume'));
});

test('SourceMigration.pause() ends the wait for a destination that never answers a precopy', () => {
  const rig = new SourceRig();
  rig.startAndConverge();
  rig.engine.guestPaused(true);
  rig.sendAll();
  assert.throws(() => rig.engine.pause(rig.nowMs), /not in "device"/);
  rig.engine.devicesSaved(Uint8Array.of(1), rig.nowMs);
  rig.sendAll();
  assert.throws(() => rig.engine.cancel(rig.nowMs), /"migrate_pause" ends the wait/);
  rig.engine.pause(rig.nowMs);
  assert.equal(rig.engine.status, 'failed');
  assert.match(rig.engine.error?.message ?? '', /It may run the guest: look there/);
  assert.ok(!rig.effects.includes('resume'));
});

test('SourceMigration hands the guest over with EOF, not with the description behind it', () => {
  const rig = new SourceRig({ isPostcopyOn: false });
  rig.startAndConverge();
  rig.engine.guestPaused(true);
  rig.sendAll();
  rig.engine.devicesSaved(Uint8Array.of(1), rig.nowMs);
  const target = new Uint8Array(64 * 1024);
  const count = rig.engine.fill(target, rig.nowMs);
  // EOF, then the mark and the length of the description, then its JSON.
  const eofAt = Buffer.from(target.subarray(0, count)).indexOf('{"page_size"') - 6;
  assert.deepEqual([target[eofAt], target[eofAt + 1]], [0x00, 0x06]);
  rig.engine.sent(eofAt, rig.nowMs);
  assert.equal(rig.engine.info(rig.nowMs).downtime, undefined);
  rig.engine.sent(1, rig.nowMs);
  assert.throws(() => rig.engine.cancel(rig.nowMs), /too late to cancel/);
});

test('SourceMigration.isFlushed waits for a device state longer than one fill', () => {
  const rig = new SourceRig({ isPostcopyOn: false, hasReturnPath: false });
  rig.startAndConverge();
  rig.engine.guestPaused(true);
  rig.sendAll();
  rig.engine.devicesSaved(new Uint8Array(100_000), rig.nowMs);
  assert.ok(!rig.engine.isFlushed, 'nothing of it is sent');
  rig.send(16 * 1024);
  assert.ok(!rig.engine.isFlushed, 'a part of it is sent');
  while (rig.engine.fill(new Uint8Array(0x4000), 0) > 0) rig.engine.sent(1, 0);
  assert.ok(!rig.engine.isFlushed, 'all is given, not all is sent');
});

/** A stream without a return path, all of it sent. */
function flushedWithoutReturnPath(): SourceRig {
  const rig = new SourceRig({ isPostcopyOn: false, hasReturnPath: false });
  rig.startAndConverge();
  assert.ok(!rig.words.includes('open-return-path') && !rig.words.includes('ping 1'));
  rig.engine.guestPaused(true);
  rig.sendAll();
  rig.engine.devicesSaved(Uint8Array.of(1), rig.nowMs);
  rig.sendAll();
  assert.ok(rig.engine.isFlushed);
  return rig;
}

test('SourceMigration without a return path ends when the other end of the channel does', () => {
  const rig = flushedWithoutReturnPath();
  rig.engine.peerFinished(undefined, rig.nowMs);
  rig.engine.peerFinished(undefined, rig.nowMs);
  assert.equal(rig.engine.status, 'completed');
  assert.ok(!rig.effects.includes('resume'));
});

test('SourceMigration leaves the guest paused when a command that has everything fails: it may run the guest', () => {
  const rig = flushedWithoutReturnPath();
  rig.engine.peerFinished(new Error('Command "x" exited with code 3'), rig.nowMs);
  assert.equal(rig.engine.status, 'failed');
  assert.match(rig.engine.error?.message ?? '', /code 3, after everything was sent\. It may run the guest/);
  assert.ok(!rig.effects.includes('resume'));
});

test('SourceMigration takes the guest back when its file is not safe', () => {
  const rig = flushedWithoutReturnPath();
  rig.engine.notSaved(new Error('no space left'), rig.nowMs);
  assert.equal(rig.engine.status, 'failed');
  assert.deepEqual(rig.effects.slice(-1), ['resume']);
});

test('SourceMigration: nothing after SHUT(0) counts', () => {
  const rig = new SourceRig();
  rig.switchToPostcopy();
  drain(rig);
  rig.engine.receive(Buffer.concat([encodeShut(0), encodeShut(1)]), rig.nowMs);
  assert.equal(rig.engine.status, 'completed');
  assert.ok(!rig.effects.includes('resume'));
  assert.throws(() => rig.engine.cancel(rig.nowMs), /nothing to cancel/);
});

test('SourceMigration: SHUT(1) pauses postcopy once the destination has answered the PING before RUN', () => {
  const rig = new SourceRig();
  rig.switchToPostcopy();
  rig.engine.receive(encodePong(PingValue.IN_PACKAGE), rig.nowMs);
  rig.engine.receive(encodeShut(1), rig.nowMs);
  assert.equal(rig.engine.status, 'postcopy-paused');
  assert.ok(rig.engine.isGuestElsewhere);
  assert.ok(!rig.effects.includes('resume'));
});

test('SourceMigration takes the guest back when the destination refuses the package', () => {
  const rig = new SourceRig();
  rig.switchToPostcopy();
  rig.engine.receive(encodePong(PingValue.PACKAGE_SENT), rig.nowMs);
  rig.engine.receive(encodeShut(1), rig.nowMs);
  assert.equal(rig.engine.status, 'failed');
  assert.ok(!rig.engine.isGuestElsewhere);
  assert.deepEqual(rig.effects.slice(-1), ['resume']);
});

test('SourceMigration switches a second after it is due, also if the destination does not answer', () => {
  const rig = new SourceRig();
  rig.writeAll();
  rig.engine.start(rig.nowMs);
  rig.send();
  rig.engine.startPostcopy();
  rig.send();
  const dueAtMs = rig.nowMs + 1000;
  assert.equal(rig.engine.wakeAtMs(rig.nowMs), dueAtMs);
  rig.nowMs = dueAtMs - 1;
  rig.send();
  assert.ok(!rig.effects.includes('pause'));
  rig.nowMs = dueAtMs;
  rig.send();
  assert.ok(rig.effects.includes('pause'));
});

for (const cause of [new Error('reset'), undefined]) {
  test(`SourceMigration leaves the guest paused when the connection ${cause ? 'breaks' : 'ends'} before RUN is known of`, () => {
    const rig = new SourceRig();
    rig.switchToPostcopy();
    rig.engine.channelLost(cause, rig.nowMs);
    assert.equal(rig.engine.status, 'postcopy-paused');
    assert.ok(!rig.engine.isGuestElsewhere, 'an operator may let it run on here');
    assert.match(
      rig.engine.error?.message ?? '',
      /look there, and continue here with "cont" only if it does not/,
    );
    assert.ok(!rig.effects.includes('resume'));
  });
}

const BAD_REQUESTS: readonly (readonly [string, Uint8Array, RegExp])[] = [
  ['of an unknown block', encodeReqPagesId(0, PAGE, 'pc.rom'), /there is no such block/],
  ['that is misaligned', encodeReqPagesId(100, PAGE, 'pc.ram'), /multiple of 4096/],
  ['of no bytes', encodeReqPagesId(0, 0, 'pc.ram'), /positive multiple of 4096/],
  ['beyond the end', encodeReqPagesId(7 * PAGE, 2 * PAGE, 'pc.ram'), /the block ends at 32768/],
  ['that names no block', encodeReqPages(0, PAGE), /before any REQ_PAGES_ID/],
  ['by an unknown message', Uint8Array.of(0, 99, 0, 0), /Unknown return path message/],
  ['by a message without a place', Uint8Array.of(0, 7, 0, 0), /"switchover-ack" has no place/],
];

for (const [what, message, text] of BAD_REQUESTS) {
  test(`SourceMigration pauses postcopy after a request ${what}`, () => {
    const rig = new SourceRig();
    rig.switchToPostcopy();
    rig.engine.receive(message, rig.nowMs);
    assert.equal(rig.engine.status, 'postcopy-paused');
    assert.match(rig.engine.error?.message ?? '', text);
  });
}

test('SourceMigration refuses requests before postcopy', () => {
  const rig = new SourceRig();
  rig.engine.start(rig.nowMs);
  rig.send(16 * 1024);
  rig.engine.receive(encodeReqPagesId(0, PAGE, 'pc.ram'), rig.nowMs);
  assert.equal(rig.engine.status, 'failed');
  assert.match(rig.engine.error?.message ?? '', /not in postcopy/);
});

test('SourceMigration refuses a flood of requests', () => {
  const rig = new SourceRig();
  rig.switchToPostcopy();
  const named = encodeReqPagesId(0, PAGE, 'pc.ram');
  const flood = Buffer.concat(Array.from({ length: 4096 }, () => encodeReqPages(0, PAGE)));
  rig.engine.receive(named, rig.nowMs);
  for (let chunk = 0; chunk < 15; chunk++) rig.engine.receive(flood, rig.nowMs);
  assert.equal(rig.engine.status, 'postcopy-active');
  rig.engine.receive(flood, rig.nowMs);
  assert.equal(rig.engine.status, 'postcopy-paused');
  assert.match(rig.engine.error?.message ?? '', /Too many page requests: at most 65536 may wait/);
});

test('SourceMigration sends a requested page before pushed ones, and its neighbours after it', () => {
  const rig = new SourceRig({ blocks: { 'pc.ram': 60, 'vga.vram': 4 }, parameters: { 'max-bandwidth': 1 } });
  rig.writeAll();
  rig.switchToPostcopy();
  assert.equal(rig.send()[1], 'page pc.ram 0', 'without requests the scan begins at the start');
  rig.engine.receive(encodeReqPagesId(40 * PAGE, PAGE, 'pc.ram'), rig.nowMs);
  assert.deepEqual(rig.send(), ['part', 'page pc.ram 40']);
  assert.deepEqual(rig.send().slice(0, 3), ['part', 'page pc.ram 41', 'page pc.ram 42']);
  pongAll(rig);
  rig.engine.receive(
    Buffer.concat([
      encodeReqPagesId(3 * PAGE, PAGE, 'vga.vram'),
      encodeReqPages(PAGE, 2 * PAGE),
      encodeReqPagesId(30 * PAGE, PAGE, 'pc.ram'),
    ]),
    rig.nowMs,
  );
  assert.deepEqual(rig.send(), [
    'part',
    'page vga.vram 3',
    'page pc.ram 30',
    'page vga.vram 1',
    'page vga.vram 2',
  ]);
  assert.equal(rig.send()[1], 'page pc.ram 31');
});

test('SourceMigration ignores requests for pages that were sent, and sends every page once', () => {
  const rig = new SourceRig({ blocks: { 'pc.ram': 40 }, parameters: { 'max-bandwidth': 1 } });
  rig.writeAll();
  rig.switchToPostcopy();
  rig.engine.receive(encodeReqPagesId(5 * PAGE, PAGE, 'pc.ram'), rig.nowMs);
  rig.engine.receive(encodeReqPages(5 * PAGE, PAGE), rig.nowMs);
  assert.deepEqual(rig.send(), ['part', 'page pc.ram 5']);
  rig.engine.receive(encodeReqPages(5 * PAGE, PAGE), rig.nowMs);
  assert.deepEqual(rig.send(), [], 'a call for nothing');
  assert.equal(rig.engine.wakeAtMs(rig.nowMs), rig.nowMs, 'and pushed pages can follow at once');
  drain(rig);
  const pages = rig.words.filter((word) => word.startsWith('page pc.ram'));
  assert.equal(pages.length, 40);
  assert.equal(new Set(pages).size, 40);
  assert.deepEqual(rig.words.slice(-2), ['end', 'eof']);
  rig.engine.receive(encodeReqPages(5 * PAGE, PAGE), rig.nowMs);
  assert.deepEqual(rig.send(), [], 'nothing follows EOF');
  const info = rig.engine.info(rig.nowMs);
  assert.equal(info.ram?.['postcopy-requests'], 4);
  assert.equal(info['x-pages-demanded'], 1);
  assert.equal(info['x-pages-pushed'], 39);
});

test('SourceMigration waits for pongs when the bulk window is full, but never with a requested page', () => {
  const rig = new SourceRig({ blocks: { 'pc.ram': 200 }, parameters: { 'max-bandwidth': 1 } });
  rig.writeAll();
  rig.switchToPostcopy();
  rig.sendAll();
  const pushed = rig.words.filter((word) => word.startsWith('page')).length;
  assert.ok(pushed >= 16 && pushed <= 26, `64 KiB and the chunk that fills them, got ${pushed} pages`);
  assert.equal(rig.engine.wakeAtMs(rig.nowMs), Number.POSITIVE_INFINITY);
  rig.engine.receive(encodeReqPagesId(199 * PAGE, PAGE, 'pc.ram'), rig.nowMs);
  assert.deepEqual(rig.send(), ['part', 'page pc.ram 199']);
  pongAll(rig);
  assert.ok(rig.send().length > 0);
});

test('SourceMigration holds max-bandwidth in precopy and max-postcopy-bandwidth for pushed pages', () => {
  const bytesPerSecond = 400_000;
  const rig = new SourceRig({
    blocks: { 'pc.ram': 200 },
    parameters: {
      'max-bandwidth': bytesPerSecond,
      'max-postcopy-bandwidth': bytesPerSecond,
      'downtime-limit': 0,
    },
  });
  rig.writeAll();
  rig.engine.start(rig.nowMs);
  const sentBytes = () => rig.stream.reduce((sum, { length }) => sum + length, 0);
  const startMs = rig.nowMs;
  const check = (fromMs: number, fromBytes: number) => {
    const allowed = ((rig.nowMs - fromMs) / 1000) * bytesPerSecond + 16 * 1024 + PAGE + 1024;
    assert.ok(sentBytes() - fromBytes <= allowed, `${sentBytes() - fromBytes} bytes, ${allowed} are allowed`);
  };
  for (; rig.nowMs < startMs + 1000; rig.nowMs += 7) {
    rig.send();
    check(startMs, 0);
  }
  assert.ok(sentBytes() > 0.9 * bytesPerSecond);

  rig.engine.startPostcopy();
  rig.send();
  rig.answerPings();
  rig.engine.guestPaused(true);
  rig.engine.devicesSaved(Uint8Array.of(1), rig.nowMs);
  while (rig.engine.status !== 'postcopy-active') rig.send();
  const [fromMs, fromBytes] = [rig.nowMs, sentBytes()];
  for (; rig.nowMs < fromMs + 500; rig.nowMs += 7) {
    rig.send();
    pongAll(rig);
    check(fromMs, fromBytes);
  }
  assert.ok(sentBytes() - fromBytes > 0.4 * bytesPerSecond);
  rig.engine.setParameters({ ...rigParameters(), 'max-postcopy-bandwidth': 0 }, rig.nowMs);
  drain(rig);
  assert.equal(rig.words.at(-1), 'eof');
});

function rigParameters() {
  return {
    ...DEFAULT_PARAMETERS,
    'max-bandwidth': 0,
    'max-postcopy-bandwidth': 0,
    'downtime-limit': 300,
    'x-postcopy-start-time': 0,
    'x-switchover-timeout': 30_000,
    'x-reconnect-ms': 0,
  };
}

test('SourceMigration traces what it does', () => {
  const rig = new SourceRig();
  rig.writeAll();
  rig.startAndConverge();
  rig.engine.channelLost(undefined, rig.nowMs);
  const postcopy = new SourceRig();
  postcopy.writeAll();
  postcopy.switchToPostcopy();
  postcopy.engine.receive(encodeReqPagesId(0, PAGE, 'pc.ram'), postcopy.nowMs);
  postcopy.engine.receive(encodePong(1), postcopy.nowMs);
  drain(postcopy);
  assert.deepEqual([...new Set([...rig.traces, ...postcopy.traces])].sort(), [
    'migrate_pending',
    'migrate_set_state',
    'migration_bitmap_sync_end',
    'postcopy_send_discard_bm_ram',
    'postcopy_start',
    'ram_save_queue_pages',
    'savevm_command_send',
    'savevm_section_end',
    'savevm_section_start',
    'savevm_send_ping',
    'source_return_path_thread_entry',
    'source_return_path_thread_pong',
  ]);
});

test('SourceMigration.close() gives up what is held, in any state, and twice', () => {
  const rig = new SourceRig();
  rig.startAndConverge();
  rig.engine.close();
  rig.engine.close();
  assert.ok(rig.engine.isOver);
  assert.ok(rig.effects.includes('untrack'));
});

test('SourceMigration refuses blocks of huge pages', () => {
  assert.throws(
    () => new SourceRig({ pageSizeBytes: 2 * 1024 * 1024 }),
    /Block "pc.ram" has host pages of 2097152 bytes; only 4096 can be migrated/,
  );
});

test('SourceMigration with isPulled discards what has content and pushes nothing', () => {
  const rig = new SourceRig({ blocks: { 'pc.ram': 100, 'vga.vram': 4 }, isPulled: true });
  for (const page of [1, 2, 3, 50]) rig.write(0, page, 9);
  rig.switchToPostcopy();
  assert.deepEqual(
    rig.words.filter((word) => word.startsWith('discard')),
    ['discard pc.ram 1+3', 'discard pc.ram 50+1'],
  );
  pongAll(rig);
  assert.deepEqual(rig.sendAll(), []);
  assert.equal(rig.engine.wakeAtMs(rig.nowMs), Number.POSITIVE_INFINITY);
  rig.request('pc.ram', 2);
  rig.request('pc.ram', 7);
  assert.deepEqual(rig.sendAll(), ['part', 'page pc.ram 2']);
  rig.engine.receive(encodeReqPages(0, 100 * PAGE), rig.nowMs);
  assert.deepEqual(rig.sendAll().slice(0, 4), ['part', 'page pc.ram 1', 'page pc.ram 3', 'page pc.ram 50']);
  const { ram, ...info } = rig.engine.info(rig.nowMs);
  assert.deepEqual([info['x-pages-demanded'], info['x-pages-read-ahead']], [1, 3]);
  assert.deepEqual([ram?.duplicate, ram?.normal], [0, 4]);
  rig.engine.receive(encodeShut(0), rig.nowMs);
  assert.equal(rig.engine.status, 'completed');
});

test('SourceMigration with isPulled lets the destination end when it has enough', () => {
  const rig = new SourceRig({ isPulled: true }).writeAll();
  rig.switchToPostcopy();
  rig.request('pc.ram', 2);
  rig.sendAll();
  rig.engine.receive(encodeShut(0), rig.nowMs);
  assert.equal(rig.engine.status, 'completed');
  const lost = new SourceRig({ isPulled: true }).writeAll();
  lost.switchToPostcopy();
  lost.engine.channelLost(undefined, lost.nowMs);
  assert.equal(lost.engine.error?.message, 'Connection lost: the destination closed it');
  const early = new SourceRig().writeAll();
  early.switchToPostcopy();
  early.engine.receive(encodeShut(0), early.nowMs);
  assert.equal(early.engine.status, 'postcopy-paused', 'others must have everything');
});

test('SourceMigration serves a single page in the middle of a range', () => {
  const rig = new SourceRig({ blocks: { 'pc.ram': 100 }, isPulled: true }).writeAll();
  rig.switchToPostcopy();
  rig.engine.receive(encodeReqPagesId(0, 64 * PAGE, 'pc.ram'), rig.nowMs);
  const first = rig.send().filter((word) => word.startsWith('page'));
  assert.deepEqual(
    first,
    [0, 1, 2, 3, 4, 5, 6, 7].map((page) => `page pc.ram ${page}`),
  );
  rig.request('pc.ram', 90);
  assert.equal(rig.send()[1], 'page pc.ram 90');
  assert.equal(rig.sendAll().filter((word) => word.startsWith('page')).length, 64 - first.length - 7);
});

function availableRig(pageCount: number, readable: readonly number[]) {
  const available = PageBitmap.shared(pageCount);
  for (const page of readable) available.setShared(page);
  const rig = new SourceRig({ blocks: { 'pc.ram': pageCount }, availablePages: [available] }).writeAll();
  rig.switchToPostcopy();
  return { rig, available };
}

test('SourceMigration pushes only pages that can be read, and sleeps until more can', () => {
  const { rig, available } = availableRig(6, [1, 4]);
  assert.deepEqual(rig.sendAll(), ['part', 'page pc.ram 1', 'page pc.ram 4', 'ping n']);
  rig.answerPings();
  assert.deepEqual(rig.sendAll(), []);
  assert.equal(rig.engine.wakeAtMs(rig.nowMs), Number.POSITIVE_INFINITY, 'it does not spin');
  available.setShared(2);
  rig.engine.pagesArrived();
  assert.ok(rig.engine.wakeAtMs(rig.nowMs) <= rig.nowMs);
  assert.deepEqual(rig.sendAll(), ['part', 'page pc.ram 2', 'ping n']);
  for (const page of [0, 3, 5]) available.setShared(page);
  rig.engine.pagesArrived();
  drain(rig);
  rig.engine.receive(encodeShut(0), rig.nowMs);
  assert.equal(rig.engine.status, 'completed');
  assert.equal(rig.words.filter((word) => word.startsWith('page')).length, 6, 'each once');
});

test('SourceMigration keeps a request aside whose page is not there, and serves it first when it is', () => {
  const { rig, available } = availableRig(40, [0, 1, 2, 3]);
  rig.request('pc.ram', 30);
  rig.request('pc.ram', 30);
  rig.request('pc.ram', 2);
  rig.engine.receive(encodeReqPages(3 * PAGE, 2 * PAGE), rig.nowMs);
  assert.deepEqual(rig.awaited, ['0:30', '0:30', '0:4']);
  assert.deepEqual(rig.send(), ['part', 'page pc.ram 2', 'page pc.ram 3']);
  assert.deepEqual(rig.sendAll(), ['part', 'page pc.ram 0', 'page pc.ram 1', 'ping n']);
  rig.nowMs += 7;
  for (const page of [10, 30, 4]) available.setShared(page);
  rig.engine.pagesArrived();
  assert.deepEqual(rig.send(), ['part', 'page pc.ram 30', 'page pc.ram 4']);
  assert.equal(Math.round((rig.engine.info(rig.nowMs)['x-page-request-latency-us']?.max ?? 0) / 1000), 7);
  rig.answerPings();
  assert.deepEqual(rig.sendAll(), ['part', 'page pc.ram 10', 'ping n']);
});

test('SourceMigration holds an order up at a page that is not there, not the others', () => {
  const available = PageBitmap.shared(8);
  for (const page of [0, 5]) available.setShared(page);
  const rig = new SourceRig({
    availablePages: [available],
    pushFirst: [
      { block: 0, firstPage: 5, pageCount: 2 },
      { block: 0, firstPage: 0, pageCount: 1 },
    ],
  }).writeAll();
  rig.switchToPostcopy();
  assert.equal(rig.send()[1], 'page pc.ram 5');
  assert.equal(rig.send()[1], 'page pc.ram 0');
  for (const page of [1, 6]) available.setShared(page);
  rig.engine.pagesArrived();
  assert.equal(rig.send()[1], 'page pc.ram 6');
  assert.equal(rig.send()[1], 'page pc.ram 1');
});
