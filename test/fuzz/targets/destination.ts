/**
 * The destination engine, with a memory that knows which pages are there and a machine that answers at once.
 */
import { PageBitmap } from '../../../src/memory/page-bitmap.ts';
import { TARGET_PAGE_BYTES } from '../../../src/memory/ram-block.ts';
import { DestinationMigration } from '../../../src/migration/destination.ts';
import type { DestinationMemory } from '../../../src/migration/destination-ports.ts';
import {
  advised,
  allPages,
  askBitmap,
  devices,
  discard,
  eof,
  header,
  listen,
  openReturnPath,
  packaged,
  part,
  ping,
  RIG_BLOCKS,
  RIG_DEVICE,
  RIG_MACHINE_TYPE,
  ramEnd,
  ramStart,
  resume,
  run as runCommand,
  wholePackage,
} from '../../../src/migration/destination-rig.ts';
import { MigrationError } from '../../../src/migration/migration-error.ts';
import { RequestTimes } from '../../../src/migration/page-requests.ts';
import { concatenate } from '../../../src/wire/example-stream.ts';
import { ReturnPathDecoder } from '../../../src/wire/return-path-decoder.ts';
import { MIN_STREAM_BUFFER_BYTES } from '../../../src/wire/stream-decoder.ts';
import { whyBadText } from '../examine.ts';
import { eventPiece, type Piece } from '../piece.ts';
import { splitStream } from '../split-stream.ts';
import { BrokenPromise, digest, type Run, type Target } from '../target.ts';
import { once } from './seeds.ts';

class Rig {
  readonly engine: DestinationMigration;
  readonly #buffer = new Uint8Array(MIN_STREAM_BUFFER_BYTES);
  readonly #present = new Map<string, string>();
  readonly #received = RIG_BLOCKS.map(({ lengthBytes }) => new PageBitmap(lengthBytes / TARGET_PAGE_BYTES));
  readonly #answers: string[] = [];
  #returnPath = new ReturnPathDecoder();
  #pending: 'load' | 'resume' | undefined;
  #loads = 0;
  #resumes = 0;
  #isListening = false;
  willFail = false;

  constructor() {
    this.engine = new DestinationMigration({
      memory: this.#memory(),
      buffer: this.#buffer,
      receivedBitmaps: this.#received,
      requestTimes: new RequestTimes(RIG_BLOCKS),
      machineType: RIG_MACHINE_TYPE,
      deviceSection: RIG_DEVICE,
      hasReturnPath: true,
      effects: {
        sendReturnPath: (message) => this.#sendReturnPath(message),
        loadDevices: () => {
          if (++this.#loads > 1) throw new BrokenPromise('devices are loaded twice');
          this.#pending = 'load';
        },
        resumeGuest: () => {
          if (++this.#resumes > 1) throw new BrokenPromise('the guest is resumed twice');
          if (this.#loads === 0) throw new BrokenPromise('the guest is resumed before it has devices');
          this.#pending = 'resume';
        },
        requestPagesAgain: () => {},
        statusChanged: () => {},
      },
      clock: () => 1,
      trace: { isEnabled: () => true, emit: () => {} },
    });
    this.engine.start(0);
  }

  receive(bytes: Uint8Array, run: Run): void {
    for (let at = 0; at < bytes.length; ) {
      if (this.engine.isOver || this.engine.isPaused) return;
      const free = this.engine.free();
      if (free.length === 0) throw new BrokenPromise('there is no room to read into');
      const some = bytes.subarray(at, at + Math.min(free.length, run.nextCut()));
      free.set(some);
      at += some.length;
      this.engine.received(some.length, 1);
      this.#answer();
    }
  }

  happen(event: string): void {
    if (event === 'lost') this.engine.channelLost(undefined, 1);
    else if (event === 'machine fails') this.willFail = true;
    else {
      try {
        if (event === 'pause') this.engine.pause(1);
        else this.engine.recover(1);
      } catch (error) {
        if (!(error instanceof MigrationError)) throw error;
        return;
      }
      if (event === 'recover') this.#returnPath = new ReturnPathDecoder();
    }
  }

  finish(run: Run): void {
    this.engine.channelLost(undefined, 2);
    const { status, error, isOver, isPaused } = this.engine;
    if (!isOver && !isPaused) throw new BrokenPromise(`it goes on without a connection, in ${status}`);
    if (error !== undefined && !['StreamError', 'MigrationError'].includes(error.name)) throw error;
    const bad = error === undefined ? undefined : whyBadText(error.message);
    if (bad !== undefined) throw new BrokenPromise(bad);
    const isGuestHere = this.#resumes > 0;
    if (status === 'failed' && isGuestHere && this.#isListening)
      throw new BrokenPromise('failed with a guest');
    const pageCount = this.#received.reduce((sum, bitmap) => sum + bitmap.pageCount, 0);
    if (status === 'completed') {
      if (!isGuestHere) throw new BrokenPromise('completed without a guest');
      if (this.#isListening && this.#present.size !== pageCount)
        throw new BrokenPromise('completed with gaps');
    }
    this.#received.forEach((bitmap, block) => {
      for (let page = 0; page < bitmap.pageCount; page++) {
        if (bitmap.isSet(page) !== this.#present.has(`${block}:${page}`))
          throw new BrokenPromise(`page ${block}:${page} is ${bitmap.isSet(page) ? 'not ' : ''}there`);
      }
    });
    run.say(`${status}: ${error?.message}`);
    run.say(JSON.stringify(this.engine.info(2).status));
    for (const answer of this.#answers.sort()) run.say(answer);
    for (const [page, content] of [...this.#present].sort()) run.say(`${page} ${content}`);
  }

  /** The machine has done what it was told. */
  #answer(): void {
    while (this.#pending !== undefined) {
      const what = this.#pending;
      this.#pending = undefined;
      if (this.willFail) this.engine.machineFailed(new Error('the machine is broken'), 1);
      else if (what === 'load') this.engine.devicesLoaded(1);
      else this.engine.guestResumed({ guestDowntimeUs: 1, isExact: true }, 1);
    }
  }

  #sendReturnPath(message: Uint8Array): void {
    this.#returnPath.take(message, (decoded) => {
      this.#answers.push(decoded.type === 'pong' ? `pong ${decoded.value}` : decoded.type);
    });
    if (!this.#returnPath.isBetweenMessages) throw new BrokenPromise('part of a message is sent');
  }

  #memory(): DestinationMemory {
    const key = (block: number, offset: number) => `${block}:${offset / TARGET_PAGE_BYTES}`;
    const write = (block: number, offset: number, content: string) => {
      if (this.#isListening) throw new BrokenPromise('a page is written that must be placed');
      this.#present.set(key(block, offset), content);
    };
    const place = (block: number, offset: number, content: string) => {
      if (!this.#isListening) throw new BrokenPromise('a page is placed that must be written');
      if (this.#present.has(key(block, offset))) throw new BrokenPromise('a page is placed twice');
      this.#present.set(key(block, offset), content);
      return 'placed' as const;
    };
    const content = (position: number) =>
      digest(this.#buffer.subarray(position, position + TARGET_PAGE_BYTES));
    return {
      blocks: RIG_BLOCKS,
      checkPostcopy: () => {},
      dropAll: () => this.#present.clear(),
      writePage: (block, offset, position) => write(block, offset, content(position)),
      writeZeroPage: (block, offset) => write(block, offset, 'zero'),
      prepareDiscards: () => {},
      discard: (block, offset, lengthBytes) => {
        for (let at = offset; at < offset + lengthBytes; at += TARGET_PAGE_BYTES)
          this.#present.delete(key(block, at));
      },
      listen: () => {
        this.#isListening = true;
      },
      placePage: (block, offset, position) => place(block, offset, content(position)),
      placeZeroPage: (block, offset) => place(block, offset, 'zero'),
      end: () => {},
    };
  }
}

const pieces = (...parts: readonly Uint8Array[]): readonly Piece[] => splitStream(concatenate(...parts));

const recovery = [askBitmap(0), askBitmap(1), resume, part(0, { 2: 5 }), part(1, { 0: 9 }), ramEnd, eof];

export const DESTINATION_TARGET: Target = {
  name: 'destination',
  seeds: once(() => [
    pieces(header, openReturnPath, ping(1), ramStart.slice(), allPages, ramEnd, devices(), eof),
    pieces(
      advised,
      allPages,
      discard(0, 0, 3),
      discard(1, 0, 1),
      ping(2),
      wholePackage,
      ping(4),
      part(0, { 0: 3, 1: 4, 2: 0 }),
      part(1, { 0: 9 }),
      ramEnd,
      eof,
    ),
    pieces(advised, packaged(listen, devices(false), ping(3), runCommand), allPages, ramEnd, eof),
    [
      ...pieces(advised, allPages, discard(0, 2, 1), discard(1, 0, 1), wholePackage),
      eventPiece('lost'),
      eventPiece('recover'),
      ...pieces(...recovery),
    ],
  ]),
  events: ['lost', 'recover', 'pause', 'machine fails'],
  // What follows a package may be refused before the machine has taken it, or after.
  heedsCuts: true,
  refusals: [],
  largestBytes: (bytes) => 2 ** 20 + 2 * bytes,
  allocatedBytes: (bytes) => 16 * 2 ** 20 + 64 * bytes,
  steps: () => 1_000_000,
  run: (run) => {
    const rig = new Rig();
    for (const { channel, kind, bytes } of run.segments) {
      if (channel === 'stream') rig.receive(bytes, run);
      else if (channel === 'event') rig.happen(kind);
    }
    rig.finish(run);
  },
};
