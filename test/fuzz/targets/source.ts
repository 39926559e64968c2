/**
 * The source engine and what comes back to it, at any moment of a migration. At the other end is a strict decoder, so
 * whatever it sends in answer must be legal.
 */
import { MigrationError } from '../../../src/migration/migration-error.ts';
import { SourceRig, type SourceRigOptions } from '../../../src/migration/source-rig.ts';
import { concatenate } from '../../../src/wire/example-stream.ts';
import { encodePeerFeatures, PeerFeature } from '../../../src/wire/peer-features.ts';
import {
  encodePong,
  encodeRecvBitmap,
  encodeReqPages,
  encodeReqPagesId,
  encodeResumeAck,
  encodeShut,
} from '../../../src/wire/return-path.ts';
import { whyBadText } from '../examine.ts';
import { eventPiece, type Piece } from '../piece.ts';
import { splitReturnPath } from '../split-stream.ts';
import { BrokenPromise, cutUp, type Run, type Target } from '../target.ts';
import { once } from './seeds.ts';

class Rig {
  readonly #rig: SourceRig;
  #answered = 0;
  #resumesSeen = 0;
  #isConnected = true;

  constructor(options: SourceRigOptions) {
    this.#rig = new SourceRig({
      blocks: { 'pc.ram': 40, vga: 3 },
      isRecoverable: true,
      ...options,
    }).writeAll();
    this.#rig.engine.start(this.#rig.nowMs);
  }

  receive(bytes: Uint8Array, run: Run): void {
    for (const chunk of cutUp(bytes, run))
      if (this.#isConnected) this.#rig.engine.receive(chunk, this.#rig.nowMs);
    this.#check();
  }

  happen(event: string): void {
    const rig = this.#rig;
    const { engine, nowMs } = rig;
    try {
      if (event === 'send') rig.send();
      else if (event === 'send all') rig.sendAll();
      else if (event === 'pongs') rig.answerPings();
      else if (event === 'machine') this.#answer();
      else if (event === 'write') rig.write(0, 3, 9);
      else if (event === 'second') rig.nowMs += 1000;
      else if (event === 'minute') rig.nowMs += 60_000;
      else if (event === 'start postcopy') engine.startPostcopy();
      else if (event === 'cancel') engine.cancel(nowMs);
      else if (event === 'pause') engine.pause(nowMs);
      else if (event === 'lost') engine.channelLost(undefined, nowMs);
      else if (event === 'recover' && engine.isPaused) rig.recover();
    } catch (error) {
      if (!(error instanceof MigrationError)) throw error;
    }
    this.#check();
  }

  finish(run: Run): void {
    const { engine, nowMs } = this.#rig;
    const { status, error } = engine;
    run.say(`${status}: ${error?.message}`);
    if (error !== undefined && !['StreamError', 'MigrationError'].includes(error.name)) throw error;
    const bad = error === undefined ? undefined : whyBadText(error.message);
    if (bad !== undefined) throw new BrokenPromise(bad);
    engine.info(nowMs);
    run.say(`${engine.isGuestElsewhere} ${this.#rig.effects.join(', ')}`);
    run.say(this.#rig.statuses.join(' '));
    run.say(`sent ${this.#rig.words.length} ${this.#rig.words.at(-1)}`);
  }

  /** Answers what the engine has asked of the machine. */
  #answer(): void {
    const { effects, engine, nowMs } = this.#rig;
    for (; this.#answered < effects.length; this.#answered++) {
      const effect = effects[this.#answered];
      if (effect === 'pause') engine.guestPaused(true);
      else if (effect === 'save') engine.devicesSaved(Uint8Array.of(7), nowMs);
    }
  }

  #check(): void {
    const { effects, engine } = this.#rig;
    const resumes = effects.filter((effect) => effect === 'resume').length;
    if (resumes > 1) throw new BrokenPromise('the guest is resumed twice');
    if (resumes > this.#resumesSeen && engine.isGuestElsewhere)
      throw new BrokenPromise('the guest is resumed here and runs elsewhere');
    this.#resumesSeen = resumes;
    if (resumes > 0 && engine.status.startsWith('postcopy')) throw new BrokenPromise('resumed in postcopy');
  }
}

const say = (...messages: readonly Uint8Array[]): readonly Piece[] =>
  splitReturnPath(concatenate(...messages));
const then = (...events: readonly string[]): readonly Piece[] => events.map(eventPiece);

const toPostcopy = [
  ...then('send'),
  ...say(encodePong(1)),
  ...then('start postcopy', 'send all', 'machine', 'machine', 'send all'),
  ...say(encodePong(2), encodePong(3)),
];
/** To a destination that says when it is ready for RUN. */
const toHandshake = [
  ...then('send'),
  ...say(encodePong(encodePeerFeatures(PeerFeature.RUN_HANDSHAKE)), encodePong(1)),
  ...then('start postcopy', 'send all', 'machine', 'machine', 'send all'),
  ...say(encodePong(2), encodePong(3), encodePong(0x42)),
  ...then('send all'),
  ...say(encodePong(4)),
];
const requests = say(
  encodeReqPagesId(0x3000, 4096, 'pc.ram'),
  encodeReqPages(0x5000, 0x2000),
  encodeReqPagesId(0, 4096, 'vga'),
  encodePong(4),
);
const nothingHeld = (pages: number) => new Uint8Array(Math.ceil(pages / 64) * 8);

const EVENTS = [
  'send',
  'send all',
  'pongs',
  'machine',
  'write',
  'second',
  'minute',
  'start postcopy',
  'cancel',
  'pause',
  'lost',
  'recover',
];

function sourceTarget(name: string, options: SourceRigOptions): Target {
  return {
    name,
    seeds: once(() => [
      [...then('send all', 'pongs', 'machine', 'send all', 'machine', 'send all'), ...say(encodeShut(0))],
      [...toPostcopy, ...requests, ...then('send all', 'pongs', 'send all'), ...say(encodeShut(0))],
      [
        ...toPostcopy,
        ...requests,
        ...then('send', 'lost', 'recover', 'send all'),
        ...say(encodeRecvBitmap('pc.ram', nothingHeld(40)), encodeRecvBitmap('vga', nothingHeld(3))),
        ...then('send all'),
        ...say(encodeResumeAck(), encodeReqPagesId(0x3000, 4096, 'pc.ram')),
        ...then('send all', 'pongs', 'send all'),
        ...say(encodeShut(0)),
      ],
      [...then('send all', 'pongs', 'machine'), ...say(encodeShut(1))],
      [...toPostcopy.slice(0, -2), ...say(encodeShut(1))],
      [...toHandshake, ...requests, ...then('send all', 'pongs', 'send all'), ...say(encodeShut(0))],
      [...toHandshake.slice(0, -6), ...say(encodeShut(1))],
    ]),
    events: EVENTS,
    refusals: [],
    largestBytes: (bytes) => 2 ** 20 + 2 * bytes,
    allocatedBytes: (bytes) => 256 * 2 ** 20 + (2 ** 20 / 16) * bytes,
    steps: () => 1_000_000,
    run: (run) => {
      const rig = new Rig(options);
      for (const { channel, kind, bytes } of run.segments) {
        if (channel === 'return') rig.receive(bytes, run);
        else if (channel === 'event') rig.happen(kind);
      }
      rig.finish(run);
    },
  };
}

export const SOURCE_TARGETS: readonly Target[] = [
  sourceTarget('source', {}),
  /** What `postcopy serve` is to each of its clients. */
  sourceTarget('served-source', { isPulled: true, isRecoverable: false }),
];
