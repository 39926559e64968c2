import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AllocationMeter } from '../../test/fuzz/allocation-meter.ts';
import {
  encodeAdvise,
  encodeCommand,
  encodePackagedHeader,
  encodePing,
  MigrationCommand,
} from '../wire/commands.ts';
import {
  concatenate,
  EXAMPLE_MACHINE_TYPE,
  packageBytes,
  postcopyStream,
  precopyStream,
  RAM_SECTION_ID,
  written,
} from '../wire/example-stream.ts';
import { OpenStreamDecoder } from '../wire/open-stream-decoder.ts';
import { writeMemSize, writeRamEos, writeZeroPage } from '../wire/ram-record.ts';
import {
  RAM_IDSTR,
  RAM_VERSION_ID,
  SectionType,
  writeFileHeader,
  writeSectionContinuation,
  writeSectionFooter,
  writeSectionStart,
} from '../wire/sections.ts';
import { MIN_STREAM_BUFFER_BYTES } from '../wire/stream-decoder.ts';
import { MAX_OPEN_REQUESTS, RelayObserver } from './relay-observer.ts';
import type { RelayReport, RelayState } from './relay-report.ts';
import { progressText, relayReportText } from './report-text.ts';

class Rig {
  nowMs = 1000;
  packages = 0;
  readonly states: RelayState[] = [];
  readonly observer: RelayObserver;
  #decoder: OpenStreamDecoder | undefined;

  constructor() {
    this.observer = new RelayObserver({
      clock: () => this.nowMs,
      onState: (state) => this.states.push(state),
    });
  }

  connect(): void {
    const { continued } = this.observer;
    this.#decoder = new OpenStreamDecoder({
      buffer: new Uint8Array(2 * MIN_STREAM_BUFFER_BYTES),
      handler: this.observer,
      ...(continued === undefined ? {} : { continued }),
    });
    this.observer.connected(this.#decoder, () => this.packages++);
  }

  send(bytes: Uint8Array): void {
    const decoder = this.#decoder!;
    for (let position = 0; position < bytes.length; ) {
      const free = decoder.free();
      const some = bytes.subarray(position, position + free.length);
      free.set(some);
      decoder.commit(some.length);
      decoder.run();
      position += some.length;
    }
  }

  request(start: number, lengthBytes = 4096, idstr = 'pc.ram'): void {
    this.observer.message({ type: 'req-pages', idstr, start, lengthBytes }, 0);
  }

  get report(): RelayReport {
    return { ...this.observer.report(), streamBytes: 0, returnPathBytes: 0, recording: null, error: null };
  }
}

/** Where the package of the example ends. */
const packageEnd = Buffer.from(postcopyStream).lastIndexOf(Buffer.from('080002000400000004', 'hex'));

test('RelayObserver tells the states of a precopy', () => {
  const rig = new Rig();
  rig.connect();
  rig.send(precopyStream);
  rig.nowMs += 250;
  rig.observer.message({ type: 'shut', status: 0 }, 0);
  rig.observer.disconnected('completed');
  assert.deepEqual(rig.states, ['setup', 'active', 'device', 'completed']);
  const { report } = rig;
  assert.equal(report.elapsedMs, 250);
  assert.equal(report.isConfirmed, true);
  assert.equal(report.machineType, EXAMPLE_MACHINE_TYPE);
  assert.deepEqual(report.precopyPages, { normal: 3, zero: 3, xbzrle: 0, again: 0 });
  assert.equal(report.deviceStateBytes > 100, true);
  assert.deepEqual(report.commands, { OPEN_RETURN_PATH: 1, PING: 1 });
});

test('RelayObserver times a request until its last page has come down', () => {
  const rig = new Rig();
  rig.connect();
  rig.send(postcopyStream.subarray(0, packageEnd));
  assert.equal(rig.observer.state, 'postcopy-active');
  assert.equal(rig.packages, 1);
  rig.request(0x1000);
  rig.nowMs += 0.2;
  rig.request(0x1000); // Another processor of the guest.
  rig.request(0x1f_f000, 4096, 'huge');
  rig.nowMs += 0.3;
  rig.send(postcopyStream.subarray(packageEnd));
  const { requests, postcopyPages, discards } = rig.report;
  assert.equal(requests.count, 3);
  assert.equal(requests.late, 0);
  assert.equal(requests.latencyUs?.count, 2);
  assert.equal(requests.latencyUs?.min, 300);
  assert.equal(requests.latencyUs?.max, 500);
  assert.deepEqual(postcopyPages, { normal: 3, zero: 2, xbzrle: 0, again: 5 });
  assert.deepEqual(discards, { commands: 1, ranges: 1, pages: 3 });
  rig.request(0x1000);
  assert.equal(rig.report.requests.late, 1);
});

test('RelayObserver leaves the guest at the source until RUN has passed, also where that follows the package', () => {
  const run = encodeCommand(MigrationCommand.POSTCOPY_RUN);
  const withoutRun = concatenate(
    packageBytes.subarray(0, packageBytes.length - run.length),
    encodePing(0x42),
  );
  const packageStart = packageEnd - packageBytes.length - encodePackagedHeader(0).length;
  const rig = new Rig();
  rig.connect();
  rig.send(postcopyStream.subarray(0, packageStart));
  rig.send(concatenate(encodePackagedHeader(withoutRun.length), withoutRun));
  assert.equal(rig.observer.state, 'postcopy-device');
  assert.ok(!rig.observer.isPostcopy);
  rig.send(run);
  assert.ok(rig.observer.isPostcopy);
  rig.send(postcopyStream.subarray(packageEnd));
  assert.deepEqual(rig.states, ['setup', 'active', 'device', 'postcopy-device', 'postcopy-active']);
  assert.deepEqual(rig.report.postcopyPages, { normal: 3, zero: 2, xbzrle: 0, again: 5 });

  const twice = new Rig();
  twice.connect();
  twice.send(postcopyStream.subarray(0, packageEnd));
  assert.throws(() => twice.send(run), /POSTCOPY_RUN has no place here: it has come before/);
});

test('RelayObserver goes on over a recovery, in which lost pages come again', () => {
  const rig = new Rig();
  rig.connect();
  const part = packageEnd + 9;
  rig.send(postcopyStream.subarray(0, part + 5 + 4096 + 15));
  rig.request(0x7000);
  rig.observer.disconnected('postcopy-paused');
  assert.equal(rig.observer.continued?.ramSectionId, 2);
  rig.connect();
  rig.send(Buffer.from(`08000a000706${Buffer.from('pc.ram').toString('hex')}0800090000`, 'hex'));
  rig.observer.message({ type: 'resume-ack' }, 0);
  rig.request(0x1000);
  rig.nowMs += 1;
  rig.send(postcopyStream.subarray(part));
  assert.deepEqual(rig.states, [
    ...['setup', 'active', 'device', 'postcopy-active', 'postcopy-paused'],
    ...['postcopy-recover', 'postcopy-active'],
  ]);
  const { requests, connections } = rig.report;
  assert.equal(connections, 2);
  assert.equal(requests.late, 0);
  assert.equal(requests.latencyUs?.count, 1);
  assert.equal(requests.latencyUs?.max, 1000);
});

test('RelayObserver refuses requests for what there is not, and streams it cannot follow', () => {
  const rig = new Rig();
  rig.connect();
  rig.send(postcopyStream.subarray(0, packageEnd));
  assert.throws(() => rig.request(0, 4096, 'none'), { code: 'UNKNOWN_BLOCK' });
  assert.throws(() => rig.request(0x7000, 8192), { code: 'OUT_OF_RANGE' });
  assert.throws(() => rig.observer.multifdFlush(5), { code: 'UNSUPPORTED', at: 5, message: /multifd/ });
  assert.throws(() => rig.observer.command({ type: 'enable-colo' }, 6), { code: 'UNSUPPORTED', at: 6 });
});

test('progressText() and relayReportText() are for people', () => {
  const rig = new Rig();
  assert.equal(relayReportText(rig.report), 'outcome       nobody came\n');
  rig.connect();
  rig.send(postcopyStream.subarray(0, packageEnd));
  rig.request(0x1000);
  rig.nowMs += 0.5;
  rig.send(postcopyStream.subarray(packageEnd));
  const report = { ...rig.report, streamBytes: 2 ** 20, elapsedMs: 2000 };
  assert.equal(
    progressText(report, { ...report, streamBytes: 0, elapsedMs: 1000 }),
    'postcopy-active  1 MiB, 1 MiB/s  pass 2  10 pages  1 request, median 500 us',
  );
  rig.observer.message({ type: 'shut', status: 0 }, 0);
  rig.observer.disconnected('completed');
  const text = relayReportText(rig.report);
  assert.match(text, /^outcome {7}the migration has passed whole\n/);
  assert.match(text, /\nrequests {6}1, 0 of them for pages that had passed\n/);
  assert.match(text, /\nlatency here {2}median 500 us, 99 % 500 us, longest 500 us/);
  assert.match(
    text,
    /\ncommands {6}OPEN_RETURN_PATH, POSTCOPY_ADVISE, POSTCOPY_RAM_DISCARD, PING × 2, PACKAGED\n/,
  );
  const unconfirmed = relayReportText({ ...rig.report, isConfirmed: false });
  assert.match(unconfirmed, /without a return path nobody says/);
  assert.match(relayReportText({ ...rig.report, error: 'why' }), /: why\n/);
});

/** The package has passed of a machine with a block of so many pages. */
function listening(pageCount: number): Rig {
  const rig = new Rig();
  rig.connect();
  rig.send(
    written((writer) => {
      writeFileHeader(writer, EXAMPLE_MACHINE_TYPE);
      writer.bytes(encodeCommand(MigrationCommand.OPEN_RETURN_PATH));
      writer.bytes(encodeAdvise(4096, 4096));
      writeSectionStart(writer, SectionType.START, RAM_SECTION_ID, RAM_IDSTR, 0, RAM_VERSION_ID);
      const block = { idstr: 'pc.ram', lengthBytes: pageCount * 4096, pageSizeBytes: 4096 };
      writeMemSize(writer, [block], { withHostPageSize: true });
      writeRamEos(writer);
      writeSectionFooter(writer, RAM_SECTION_ID);
    }),
  );
  rig.send(concatenate(encodePackagedHeader(packageBytes.length), packageBytes));
  return rig;
}

test('RelayObserver counts all requests, and times so many at once as it keeps', () => {
  const pageCount = MAX_OPEN_REQUESTS + 5;
  const rig = listening(pageCount);
  for (let page = 0; page < pageCount; page++) rig.request(page * 4096);
  assert.equal(rig.report.requests.count, pageCount);
  for (let first = 0; first < pageCount; first += 5000) {
    rig.send(
      written((writer) => {
        writeSectionContinuation(writer, SectionType.PART, RAM_SECTION_ID);
        for (let page = first; page < Math.min(first + 5000, pageCount); page++)
          writeZeroPage(writer, page * 4096, page === first ? 'pc.ram' : null);
        writeRamEos(writer);
        writeSectionFooter(writer, RAM_SECTION_ID);
      }),
    );
  }
  assert.equal(rig.report.postcopyPages.zero, pageCount);
  assert.equal(rig.report.requests.latencyUs?.count, MAX_OPEN_REQUESTS);
});

test('RelayObserver keeps nothing of a package, whatever its length', async () => {
  const rig = new Rig();
  rig.connect();
  rig.send(postcopyStream.subarray(0, packageEnd - packageBytes.length - encodePackagedHeader(0).length));
  rig.send(encodePackagedHeader(0xffff_ffff));
  rig.send(encodeCommand(MigrationCommand.POSTCOPY_LISTEN));
  const meter = new AllocationMeter();
  const piece = new Uint8Array(1024 * 1024);
  await meter.run(() => {
    for (let count = 0; count < 64; count++) rig.send(piece);
  });
  assert.ok(meter.allocatedBytes < piece.length, `${meter.allocatedBytes} bytes`);
  assert.equal(rig.observer.state, 'device');
});
