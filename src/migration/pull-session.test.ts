/** What a server of snapshots can do to its client. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodeAdvise, encodeDiscards, encodePackagedHeader, encodePing } from '../wire/commands.ts';
import { MAX_TAIL_BYTES } from '../wire/device-tail.ts';
import { concatenate, written } from '../wire/example-stream.ts';
import { writeMemSize, writeRamEos } from '../wire/ram-record.ts';
import { SectionType, writeFileHeader, writeSectionFooter, writeSectionStart } from '../wire/sections.ts';
import { MIN_STREAM_BUFFER_BYTES } from '../wire/stream-decoder.ts';
import { devices, listen, openReturnPath, packaged, run } from './destination-rig.ts';
import { PullSession } from './pull-session.ts';

const PAGE = 4096;

function beginning(lengthBytes: number): Uint8Array {
  const blocks = [{ idstr: 'pc.ram', lengthBytes, pageSizeBytes: PAGE }];
  return concatenate(
    written((writer) => writeFileHeader(writer, 'pc-1')),
    openReturnPath,
    encodeAdvise(PAGE, PAGE),
    written((writer) => {
      writeSectionStart(writer, SectionType.START, 2, 'ram', 0, 4);
      writeMemSize(writer, blocks, { withHostPageSize: true });
      writeRamEos(writer);
      writeSectionFooter(writer, 2);
    }),
  );
}

const pages = (firstPage: number, pageCount: number) =>
  concatenate(...encodeDiscards('pc.ram', [{ start: firstPage * PAGE, lengthBytes: pageCount * PAGE }]));
const wholePackage = packaged(listen, devices(), encodePing(3), run);

function receive(...parts: readonly Uint8Array[]): { content: number | undefined } {
  let content: number | undefined;
  const session = new PullSession(new Uint8Array(MIN_STREAM_BUFFER_BYTES), {
    identified: (snapshot) => {
      content = snapshot.content[0]?.count();
    },
    page: () => false,
    send: () => {},
  });
  const bytes = concatenate(...parts);
  for (let at = 0; at < bytes.length; ) {
    const free = session.free();
    const some = bytes.subarray(at, at + Math.min(free.length, 700));
    free.set(some);
    session.received(some.length);
    at += some.length;
  }
  return { content };
}

test('PullSession takes the pages that discards name for those with content', () => {
  assert.equal(receive(beginning(16 * PAGE), pages(0, 3), pages(3, 2), wholePackage).content, 5);
});

test('PullSession refuses a page that is named twice: a server could keep it busy for ever', () => {
  assert.throws(() => receive(beginning(2 ** 39), pages(0, 2 ** 27), pages(5, 2 ** 26)), {
    code: 'BAD_VALUE',
    message: /^The server names page 5 of "pc\.ram" twice/,
  });
});

test('PullSession refuses discards behind the package, when content is known and cannot change', () => {
  assert.throws(() => receive(beginning(16 * PAGE), pages(0, 3), wholePackage, pages(4, 1)), {
    code: 'BAD_COMMAND',
    message: /POSTCOPY_RAM_DISCARD has no place here/,
  });
});

test('PullSession takes as much device state as a snapshot may hold, and no more', () => {
  const head = beginning(16 * PAGE);
  receive(head, encodePackagedHeader(MAX_TAIL_BYTES + 1024), listen);
  assert.throws(() => receive(head, encodePackagedHeader(MAX_TAIL_BYTES + 1025)), { code: 'LIMIT' });
});

test('PullSession refuses more RAM than it has tables for', () => {
  receive(beginning(2 ** 40));
  assert.throws(() => receive(beginning(2 ** 40 + PAGE)), {
    code: 'LIMIT',
    message: /^Total RAM must be at most/,
  });
});
