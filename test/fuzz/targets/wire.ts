/** The decoders of src/wire, each by itself. */

import { reportText } from '../../../src/inspect/report-text.ts';
import { StreamInspector } from '../../../src/inspect/stream-inspector.ts';
import { DeviceTailCollector } from '../../../src/wire/device-tail.ts';
import {
  concatenate,
  EXAMPLE_BLOCKS,
  EXAMPLE_DEVICES,
  EXAMPLE_MACHINE_TYPE,
  packageBytes,
  RAM_SECTION_ID,
} from '../../../src/wire/example-stream.ts';
import { OpenStreamDecoder } from '../../../src/wire/open-stream-decoder.ts';
import { TARGET_PAGE_BYTES } from '../../../src/wire/ram-record.ts';
import * as returnPath from '../../../src/wire/return-path.ts';
import { ReturnPathDecoder } from '../../../src/wire/return-path-decoder.ts';
import { MIN_STREAM_BUFFER_BYTES, StreamDecoder } from '../../../src/wire/stream-decoder.ts';
import type { StreamHandler } from '../../../src/wire/stream-handler.ts';
import { applyXbzrle, checkXbzrle } from '../../../src/wire/xbzrle.ts';
import { whyBadText } from '../examine.ts';
import { PieceWriter } from '../piece.ts';
import { splitReturnPath, splitStream } from '../split-stream.ts';
import { BrokenPromise, cutUp, digest, feed, type Run, type Target } from '../target.ts';
import {
  capturedPostcopy,
  capturedPrecopy,
  deltas,
  examplePostcopy,
  examplePrecopy,
  exampleRecovery,
  mappedRam,
  once,
  tailOf,
} from './seeds.ts';

const MIB = 2 ** 20;
const STREAM_ERROR = ['StreamError'];

/** What a destination may be told, held against its machine. */
function checkingHandler(run: Run, buffer: Uint8Array): StreamHandler {
  const place = (block: number, offset: number) => {
    const { lengthBytes } = EXAMPLE_BLOCKS[block] ?? { lengthBytes: 0 };
    const isInside = offset >= 0 && offset + TARGET_PAGE_BYTES <= lengthBytes;
    if (!isInside || offset % TARGET_PAGE_BYTES !== 0) throw new BrokenPromise(`page ${block}:${offset}`);
    return `${block}:${offset}`;
  };
  return {
    configuration: (machineType) => run.say(`configuration ${machineType}`),
    sectionStart: (type, id, idstr) => run.say(`${type} ${id} ${idstr}`),
    sectionEnd: (type) => run.say(`${type} ends`),
    ramBlocks: (blocks) => run.say(`blocks ${blocks.length}`),
    page: (block, offset, position) => {
      if (position + TARGET_PAGE_BYTES > buffer.length)
        throw new BrokenPromise('a page outside of the buffer');
      run.say(
        `page ${place(block, offset)} ${digest(buffer.subarray(position, position + TARGET_PAGE_BYTES))}`,
      );
    },
    zeroPage: (block, offset) => run.say(`zero ${place(block, offset)}`),
    ramSectionEnd: () => run.say('eos'),
    device: (idstr, state, instanceId) => run.say(`device ${idstr} ${instanceId} ${digest(state)}`),
    command: (command) =>
      run.say(
        command.type === 'packaged'
          ? `packaged ${digest(command.bytes)}`
          : `command ${command.type} ${JSON.stringify(command)}`,
      ),
    eof: () => run.say('eof'),
    vmDescription: (lengthBytes) => run.say(`description ${lengthBytes}`),
  };
}

function destinationDecoder(run: Run, isResumed: boolean): void {
  const buffer = new Uint8Array(MIN_STREAM_BUFFER_BYTES);
  const decoder = new StreamDecoder({
    buffer,
    machineType: EXAMPLE_MACHINE_TYPE,
    blocks: EXAMPLE_BLOCKS,
    devices: EXAMPLE_DEVICES,
    handler: checkingHandler(run, buffer),
    ...(isResumed && { resumed: { ramSectionId: RAM_SECTION_ID } }),
  });
  feed(run.bytes, run, {
    free: () => decoder.free(),
    received: (countBytes) => {
      decoder.commit(countBytes);
      decoder.run();
      return true;
    },
  });
  decoder.end();
}

/** What is said of a stream by who does not know its machine. */
function openDecoder(run: Run): void {
  const buffer = new Uint8Array(MIN_STREAM_BUFFER_BYTES);
  let hash = 0;
  let lastAt = -1;
  const say = (what: string, at: number) => {
    if (!Number.isSafeInteger(at) || at < lastAt) throw new BrokenPromise(`${what} at ${at} after ${lastAt}`);
    lastAt = at;
    run.say(`${what} ${at}`);
  };
  const piece = (position: number, lengthBytes: number) => {
    for (const byte of buffer.subarray(position, position + lengthBytes)) hash = (hash * 31 + byte) | 0;
  };
  const decoder = new OpenStreamDecoder({
    buffer,
    handler: {
      configuration: (configuration, at) => say(JSON.stringify(configuration), at),
      recovery: (at) => say('recovery', at),
      sectionStart: (type, id, at) => say(`${type} ${id}`, at),
      sectionEnd: (type, id, at) => say(`${type} ${id} ends`, at),
      ramBlocks: (blocks) =>
        run.say(`blocks ${blocks.map(({ idstr, lengthBytes }) => `${idstr} ${lengthBytes}`)}`),
      page: (block, offset, position, at) => {
        const inside = decoder.blocks[block]?.lengthBytes ?? 0;
        if (offset + TARGET_PAGE_BYTES > inside) throw new BrokenPromise(`page at ${offset} of ${inside}`);
        piece(position, TARGET_PAGE_BYTES);
        say(`page ${block}:${offset} ${hash}`, at);
      },
      zeroPage: (block, offset, at) => say(`zero ${block}:${offset}`, at),
      xbzrlePage: (block, offset, position, lengthBytes, at) => {
        piece(position, lengthBytes);
        say(`delta ${block}:${offset} ${hash}`, at);
      },
      multifdFlush: (at) => say('flush', at),
      ramSectionEnd: (at) => say('eos', at),
      command: (command, at) => say(JSON.stringify(command), at),
      packageBytes: piece,
      packageEnd: (at) => say(`package ${hash}`, at),
      tailBytes: piece,
      eof: (at) => say('eof', at),
    },
  });
  feed(run.bytes, run, {
    free: () => decoder.free(),
    received: (countBytes) => {
      decoder.commit(countBytes);
      decoder.run();
      return true;
    },
  });
  decoder.end();
  run.say(`tail ${hash}`);
}

function inspector(run: Run): void {
  const inspected = new StreamInspector({ buffer: new Uint8Array(MIN_STREAM_BUFFER_BYTES) });
  feed(run.bytes, run, {
    free: () => inspected.decoder.free(),
    received: (countBytes) => {
      inspected.received(countBytes);
      return !inspected.hasFailed;
    },
  });
  inspected.end();
  const { bytes: _, ...report } = inspected.report();
  const bad = report.error === null ? undefined : whyBadText(report.error.message);
  if (bad !== undefined) throw new BrokenPromise(bad);
  for (const line of reportText('-', inspected.report()).split('\n')) {
    const badLine = whyBadText(line);
    if (badLine !== undefined) throw new BrokenPromise(`in the report, ${badLine}`);
  }
  run.say(`${report.error?.code} ${report.error?.message}`);
  run.say(`items ${report.items.map(({ kind }) => kind).join(' ')}`);
  run.say(JSON.stringify(report));
}

const returnPathMessages = once(() => [
  splitReturnPath(
    concatenate(
      returnPath.encodePong(1),
      returnPath.encodeReqPagesId(0x1000, 4096, 'pc.ram'),
      returnPath.encodeReqPages(0x3000, 0x2000),
      returnPath.encodeRecvBitmap('pc.ram', Uint8Array.of(0xff, 1, 0, 0, 0, 0, 0, 0, 3)),
      returnPath.encodeResumeAck(),
      returnPath.encodeSwitchoverAck(),
      returnPath.encodeShut(0),
    ),
  ),
]);

function decodeReturnPath(run: Run, keepsBitmaps: boolean): void {
  const decoder = new ReturnPathDecoder({ keepsBitmaps });
  for (const chunk of cutUp(run.bytes, run)) {
    decoder.take(chunk, (message) =>
      run.say(message.type === 'recv-bitmap' ? `bitmap ${digest(message.bitmap)}` : JSON.stringify(message)),
    );
  }
  run.say(`between ${decoder.isBetweenMessages}, undecided ${decoder.undecidedBytes}`);
}

function xbzrle(run: Run): void {
  const page = new Uint8Array(TARGET_PAGE_BYTES).fill(7);
  let refusal: Error | undefined;
  try {
    checkXbzrle(run.bytes, 0);
  } catch (error) {
    refusal = error as Error;
  }
  try {
    applyXbzrle(run.bytes, page, 0);
  } catch (error) {
    if (refusal?.message !== (error as Error).message) throw new BrokenPromise('check and apply differ');
    throw error;
  }
  if (refusal !== undefined) throw new BrokenPromise(`it was refused, and applied: ${refusal.message}`);
  run.say(digest(page));
}

/** Of the announced lengths only the first piece is taken before the bytes are there. */
const COLLECTED_BYTES = MIB;

export const WIRE_TARGETS: readonly Target[] = [
  {
    name: 'stream',
    seeds: once(() => [examplePrecopy(), examplePostcopy()]),
    refusals: STREAM_ERROR,
    largestBytes: (bytes) => COLLECTED_BYTES + 2 * bytes,
    allocatedBytes: (bytes) => 2 * COLLECTED_BYTES + 8 * bytes,
    run: (run) => destinationDecoder(run, false),
  },
  {
    name: 'resumed-stream',
    seeds: once(() => [exampleRecovery()]),
    donors: examplePostcopy,
    refusals: STREAM_ERROR,
    largestBytes: (bytes) => COLLECTED_BYTES + 2 * bytes,
    allocatedBytes: (bytes) => 2 * COLLECTED_BYTES + 8 * bytes,
    run: (run) => destinationDecoder(run, true),
  },
  {
    name: 'package',
    seeds: once(() => [splitStream(packageBytes)]),
    refusals: STREAM_ERROR,
    largestBytes: (bytes) => COLLECTED_BYTES + 2 * bytes,
    allocatedBytes: (bytes) => 8 * COLLECTED_BYTES + 8 * bytes,
    run: (run) => {
      const buffer = Uint8Array.from(run.bytes);
      const decoder = new StreamDecoder({
        ...{ buffer, machineType: EXAMPLE_MACHINE_TYPE, blocks: EXAMPLE_BLOCKS, devices: EXAMPLE_DEVICES },
        handler: checkingHandler(run, buffer),
        embedded: true,
      });
      decoder.free();
      decoder.commit(buffer.length);
      decoder.run();
      decoder.end();
    },
  },
  {
    name: 'open-stream',
    seeds: once(() => [
      capturedPrecopy(),
      capturedPostcopy(),
      examplePrecopy(),
      examplePostcopy(),
      exampleRecovery(),
      deltas(),
      mappedRam(),
    ]),
    refusals: STREAM_ERROR,
    largestBytes: (bytes) => MIB + 2 * bytes,
    allocatedBytes: (bytes) => MIB + 8 * bytes,
    run: openDecoder,
  },
  {
    name: 'inspect',
    seeds: once(() => [
      capturedPrecopy(),
      capturedPostcopy(),
      examplePostcopy(),
      exampleRecovery(),
      deltas(),
      mappedRam(),
    ]),
    refusals: [],
    // A bit for each page of 16 TiB.
    largestBytes: (bytes) => 512 * MIB + 2 * bytes,
    allocatedBytes: (bytes) => 514 * MIB + 64 * bytes,
    run: inspector,
  },
  {
    name: 'return-path',
    seeds: returnPathMessages,
    refusals: STREAM_ERROR,
    largestBytes: (bytes) => MIB + 2 * bytes,
    allocatedBytes: (bytes) => 2 * MIB + (MIB / 16) * bytes,
    run: (run) => decodeReturnPath(run, true),
  },
  {
    name: 'watched-return-path',
    seeds: returnPathMessages,
    refusals: STREAM_ERROR,
    largestBytes: (bytes) => 4096 + 2 * bytes,
    allocatedBytes: (bytes) => 8192 + 8 * bytes,
    run: (run) => decodeReturnPath(run, false),
  },
  {
    name: 'device-tail',
    seeds: once(() => [tailOf(capturedPrecopy())]),
    refusals: STREAM_ERROR,
    largestBytes: (bytes) => MIB + 2 * bytes,
    allocatedBytes: (bytes) => MIB + 8 * bytes,
    run: (run) => {
      const collector = new DeviceTailCollector(0);
      let tail: unknown = null;
      let endAt = 0;
      let at = 0;
      for (const chunk of cutUp(run.bytes, run)) {
        at += chunk.length;
        const found = collector.push(chunk);
        if (found !== null) [tail, endAt] = [found, at];
      }
      const settled = collector.settle();
      if (tail !== null && endAt === at && settled.devices === undefined)
        throw new BrokenPromise('seen, and settled otherwise');
      run.say(`${settled.eofAt} ${settled.vmDescription?.length} ${settled.devices?.length}`);
    },
  },
  {
    name: 'xbzrle',
    seeds: once(() => [
      [
        new PieceWriter().number(5, 1).number(2, 1).raw(Uint8Array.of(1, 2)).piece('run'),
        new PieceWriter().number(0x8002, 2).number(1, 1).raw(Uint8Array.of(9)).piece('run'),
        new PieceWriter()
          .number(0x8003, 2)
          .number(3, 1)
          .raw(Uint8Array.of(9, 8, 7))
          .piece('run'),
      ],
    ]),
    refusals: STREAM_ERROR,
    largestBytes: (bytes) => 4096 + 2 * bytes,
    allocatedBytes: () => 8192,
    run: xbzrle,
  },
];
