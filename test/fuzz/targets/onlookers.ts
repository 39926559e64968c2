/** Who stands between two others, or fetches from one: the relay's observer and the client of a snapshot server. */
import { PullSession } from '../../../src/migration/pull-session.ts';
import { SourceRig } from '../../../src/migration/source-rig.ts';
import { RelayObserver } from '../../../src/relay/relay-observer.ts';
import { concatenate } from '../../../src/wire/example-stream.ts';
import { OpenStreamDecoder } from '../../../src/wire/open-stream-decoder.ts';
import { encodePong, encodeReqPagesId, encodeShut } from '../../../src/wire/return-path.ts';
import { ReturnPathDecoder } from '../../../src/wire/return-path-decoder.ts';
import { MIN_STREAM_BUFFER_BYTES } from '../../../src/wire/stream-decoder.ts';
import { StreamError } from '../../../src/wire/stream-error.ts';
import { splitReturnPath, splitStream } from '../split-stream.ts';
import { BrokenPromise, cutUp, digest, feed, type Run, type Target } from '../target.ts';
import {
  capturedPostcopy,
  capturedPrecopy,
  deltas,
  examplePostcopy,
  exampleRecovery,
  once,
} from './seeds.ts';

const MIB = 2 ** 20;

function relay(run: Run): void {
  const observer = new RelayObserver({ clock: () => 1, onState: (state) => run.say(state) });
  const decoder = new OpenStreamDecoder({
    buffer: new Uint8Array(MIN_STREAM_BUFFER_BYTES),
    handler: observer,
    limits: { ramBytes: 16 * 2 ** 40 },
  });
  observer.connected(decoder, () => run.say('package'));
  const back = new ReturnPathDecoder({ keepsBitmaps: false });
  let backBytes = 0;
  try {
    for (const { channel, bytes } of run.segments) {
      if (channel === 'return') {
        for (const chunk of cutUp(bytes, run))
          back.take(chunk, (message) => observer.message(message, back.messageAt));
        backBytes += bytes.length;
        continue;
      }
      feed(bytes, run, {
        free: () => decoder.free(),
        received: (countBytes) => {
          decoder.commit(countBytes);
          decoder.run();
          return true;
        },
      });
    }
    decoder.end();
  } finally {
    run.say(JSON.stringify(observer.report()));
    observer.disconnected('failed');
    run.say(`${backBytes} ${observer.report().state}`);
  }
}

/** What `postcopy serve` sends to a client that wants all of it. */
const served = once(() => {
  const rig = new SourceRig({ blocks: { 'pc.ram': 40, vga: 3 }, isPulled: true }).writeAll();
  rig.switchToPostcopy();
  for (let page = 0; page < 40; page += 1) rig.request('pc.ram', page);
  for (let page = 0; page < 3; page++) rig.request('vga', page);
  rig.sendAll();
  return splitStream(concatenate(...rig.stream));
});

function pullSession(run: Run): void {
  const buffer = new Uint8Array(MIN_STREAM_BUFFER_BYTES);
  const missing = new Set<string>();
  const answers = new ReturnPathDecoder();
  let isIdentified = false;
  const session = new PullSession(buffer, {
    identified: ({ blocks, content, deviceSections, digest: name }) => {
      if (isIdentified) throw new BrokenPromise('identified twice');
      isIdentified = true;
      run.say(`${name} ${digest(deviceSections)}`);
      content.forEach((bitmap, block) => {
        const most = Math.min(bitmap.pageCount, 200);
        for (let page = bitmap.nextSet(0, most); page >= 0; page = bitmap.nextSet(page + 1, most)) {
          if (page * 4096 >= (blocks[block]?.lengthBytes ?? 0)) throw new BrokenPromise('content outside');
          missing.add(`${block}:${page}`);
          session.request({ block, firstPage: page, pageCount: 1 });
        }
      });
    },
    page: (block, page, position) => {
      if (!isIdentified) throw new BrokenPromise('a page before anything is known');
      run.say(
        `page ${block}:${page} ${position < 0 ? 'zero' : digest(buffer.subarray(position, position + 4096))}`,
      );
      return missing.delete(`${block}:${page}`);
    },
    send: (message) => answers.take(message, () => {}),
  });
  feed(run.bytes, run, {
    free: () => session.free(),
    received: (countBytes) => {
      session.received(countBytes);
      return true;
    },
  });
  run.say(`${session.isIdentified} ${session.isEnded} ${missing.size}`);
}

const answers = once(() =>
  splitReturnPath(
    concatenate(encodePong(1), encodePong(3), encodeReqPagesId(0x1000, 4096, 'pc.ram'), encodeShut(0)),
  ),
);

export const ONLOOKER_TARGETS: readonly Target[] = [
  {
    name: 'relay',
    seeds: once(() => [
      [...capturedPrecopy(), ...splitReturnPath(concatenate(encodePong(1), encodeShut(0)))],
      [...capturedPostcopy().slice(0, -6), ...answers(), ...capturedPostcopy().slice(-6)],
      [...examplePostcopy().slice(0, -6), ...answers(), ...examplePostcopy().slice(-6)],
      exampleRecovery(),
      deltas(),
    ]),
    refusals: [StreamError.name],
    largestBytes: (bytes) => 512 * MIB + bytes,
    allocatedBytes: (bytes) => 1100 * MIB + 64 * bytes,
    run: relay,
  },
  {
    name: 'pull-session',
    seeds: once(() => [served()]),
    donors: examplePostcopy,
    refusals: [StreamError.name],
    // A bit for each page of a TiB.
    largestBytes: (bytes) => 33 * MIB + 4 * bytes,
    allocatedBytes: (bytes) => 70 * MIB + 64 * bytes,
    run: pullSession,
  },
];
