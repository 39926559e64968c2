/**
 * A guest whose memory is fetched from a server of snapshots, simulated: the fetch engine against the source engine, over
 * connections that are cut, closed, swallowed and slow, to servers that are restarted, have another snapshot, or lie.
 *
 * What must hold: no page is stored twice, nor with what is not its content, nor told of before it is stored; a page that
 * the guest waits for comes; and all of the snapshot is there in the end, unless the server has another.
 */
import { PageBitmap } from '../../src/memory/page-bitmap.ts';
import { type RamBlockLayout, TARGET_PAGE_BYTES } from '../../src/memory/ram-block.ts';
import { DEFAULT_CAPABILITIES } from '../../src/migration/capabilities.ts';
import { capturedDevices } from '../../src/migration/device-state.ts';
import { NO_CLAIMS } from '../../src/migration/fetch-plan.ts';
import { Fetcher } from '../../src/migration/fetcher.ts';
import { MigrationError } from '../../src/migration/migration-error.ts';
import { DEFAULT_PARAMETERS } from '../../src/migration/parameters.ts';
import type { PulledSnapshot } from '../../src/migration/pull-session.ts';
import { SourceMigration } from '../../src/migration/source.ts';
import { NO_TRACE } from '../../src/telemetry/trace-events.ts';
import { writeDeviceSection } from '../../src/wire/device-sections.ts';
import { MIN_STREAM_BUFFER_BYTES } from '../../src/wire/stream-decoder.ts';
import { StreamError } from '../../src/wire/stream-error.ts';
import { Connection, type End, Path } from './network.ts';
import { Random } from './random.ts';
import { World } from './world.ts';

const END_MS = 1_000_000;
/** From then on nothing goes wrong any more. */
const CALM_AFTER_MS = 400_000;
const STAGING_BYTES = 16 * 1024;
/** Two ranges, what the server has filled, and what its kernel has taken. */
const MOST_UNDER_WAY_BYTES = 8 * 64 * 1024;
const FIRST_BACK_OFF_MS = 100;
const LONGEST_BACK_OFF_MS = 30_000;

export interface FetchPlanned {
  readonly blocks: readonly RamBlockLayout[];
  /** Of all pages, those with content. */
  readonly contentShare: number;
  readonly link: { readonly delayMs: number; readonly bytesPerMs: number };
  readonly mostBytesAtOnce: number;
  readonly maxBytesPerSecond: number;
  readonly demands: number;
  readonly demandEveryMs: number;
  readonly troubles: readonly FetchTrouble[];
}

export interface FetchTrouble {
  readonly atMs: number;
  readonly what:
    | 'cut'
    | 'close'
    | 'stall'
    | 'blackhole'
    | 'refuse'
    | 'lie'
    | 'unasked'
    | 'other-snapshot'
    | 'full';
  readonly forMs: number;
}

export interface FetchOutcome {
  readonly sessions: number;
  readonly end: 'complete' | 'other-snapshot';
  readonly refusals: number;
  readonly hash: string;
  readonly story: string;
}

export interface BrokenFetch {
  /** A page that the guest waits for is not asked for. */
  readonly isDemandForgotten?: true;
  /** A connection that is lost is not told to the fetcher. */
  readonly isLossForgotten?: true;
  /** Nobody asks whether the server is silent. */
  readonly isSilenceIgnored?: true;
}

export function planFetch(random: Random): FetchPlanned {
  const blocks = ['pc.ram', 'vga.vram'].slice(0, random.integer(1, 2)).map((idstr) => ({
    idstr,
    lengthBytes: random.integer(1, random.chance(0.2) ? 400 : 60) * TARGET_PAGE_BYTES,
    pageSizeBytes: TARGET_PAGE_BYTES,
  }));
  const link = { delayMs: random.skewed(60), bytesPerMs: random.pick([200, 2000, 50_000]) };
  const passMs = blocks.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0) / link.bytesPerMs;
  const kinds = ['cut', 'cut', 'close', 'stall', 'blackhole', 'refuse', 'lie', 'unasked', 'full'] as const;
  const troubles = Array.from({ length: random.pick([0, 1, 2, 6]) }, () => ({
    atMs: random.fraction() * (passMs * 2 + 1200),
    what: random.chance(0.04) ? ('other-snapshot' as const) : random.pick(kinds),
    forMs: random.skewed(100_000),
  }));
  return {
    blocks,
    contentShare: random.pick([0.1, 0.7, 1]),
    link,
    mostBytesAtOnce: random.pick([100, 5000, 70_000]),
    maxBytesPerSecond: random.pick([0, 0, 50_000, 1_000_000]),
    demands: random.integer(0, 60),
    demandEveryMs: random.pick([0.1, 5, 200]),
    troubles,
  };
}

/** @throws {Error} if a rule is broken: its message begins with the seed and ends with the story */
export function simulateFetch(seed: number, broken: BrokenFetch = {}): FetchOutcome {
  const world = new World(~seed);
  try {
    return new FetchSimulation(world, planFetch(new Random(seed)), broken).run();
  } catch (error) {
    const { message, stack } = error as Error;
    throw new Error(`SEED=${seed} ${message}\n${world.story}\n${stack}`, { cause: error });
  }
}

class FetchSimulation {
  readonly #world: World;
  readonly #plan: FetchPlanned;
  readonly #broken: BrokenFetch;
  readonly #path: { readonly there: Path; readonly back: Path };
  /** What each page holds; 0 for none. */
  readonly #truth: Uint32Array[];
  readonly #stored: Uint8Array[];
  readonly #available: readonly PageBitmap[];
  readonly #buffer = new Uint8Array(MIN_STREAM_BUFFER_BYTES);
  readonly #view = new DataView(this.#buffer.buffer);
  readonly #fetcher: Fetcher;
  readonly #waiting = new Map<string, number>();
  #written: [block: number, page: number][] = [];
  #connection: Connection | undefined;
  #end: End | undefined;
  #wakeups = 0;
  #backOffMs = FIRST_BACK_OFF_MS;
  #refusesUntilMs = 0;
  #fullUntilMs = 0;
  #sessions = 0;
  #refusals = 0;
  /** Of the snapshot that the server has; that of this connection; and the one that is fetched. */
  #generation = 0;
  #servedGeneration = 0;
  #fetchedGeneration = 0;
  #identifiedAtMs = Number.POSITIVE_INFINITY;
  #lies: 'lie' | 'unasked' | undefined;
  #outcome: FetchOutcome['end'] | undefined;

  constructor(world: World, plan: FetchPlanned, broken: BrokenFetch) {
    this.#world = world;
    this.#plan = plan;
    this.#broken = broken;
    this.#path = { there: new Path(plan.link), back: new Path(plan.link) };
    const pageCounts = plan.blocks.map(({ lengthBytes }) => lengthBytes / TARGET_PAGE_BYTES);
    this.#truth = pageCounts.map((count) =>
      Uint32Array.from({ length: count }, (_, page) =>
        world.random.chance(plan.contentShare) ? page + 1 : 0,
      ),
    );
    // A snapshot without any content would be complete at once.
    (this.#truth[0] as Uint32Array)[0] = 1;
    this.#stored = pageCounts.map((count) => new Uint8Array(count));
    this.#available = pageCounts.map((count) => PageBitmap.shared(count));
    this.#fetcher = new Fetcher(
      this.#buffer,
      {
        identified: (snapshot) => {
          this.#fetchedGeneration = this.#servedGeneration;
          world.after(world.random.skewed(20), () => this.#setStore(snapshot));
        },
        resumed: () => world.note('client: the session is resumed'),
        pagesArrived: () => this.#arrived(),
        send: (message) => this.#end?.write(message.slice()),
      },
      plan.maxBytesPerSecond,
    );
  }

  run(): FetchOutcome {
    const { troubles, demands, demandEveryMs } = this.#plan;
    for (const trouble of troubles) this.#world.after(trouble.atMs, () => this.#makeTrouble(trouble));
    this.#world.after(CALM_AFTER_MS, () => {
      this.#lies = undefined;
    });
    this.#connect();
    this.#demandLater(demands, demandEveryMs);
    this.#world.run(END_MS);
    if (this.#outcome === undefined)
      this.#world.violate('hang', `${this.#fetcher.remainingPages} pages are missing`);
    if (this.#outcome === 'complete') this.#checkComplete();
    return {
      sessions: this.#sessions,
      end: this.#outcome as 'complete',
      refusals: this.#refusals,
      hash: this.#world.hash,
      story: this.#world.story,
    };
  }

  // ---- network and server ----------------------------------------------------------------------------------

  #makeTrouble({ what, forMs }: FetchTrouble): void {
    const { nowMs } = this.#world;
    if (this.#outcome !== undefined) return;
    this.#world.note(`trouble: ${what}`);
    const connection = this.#connection;
    switch (what) {
      case 'cut':
        connection?.cut();
        return;
      case 'close':
        connection?.stream.halfClose();
        return;
      case 'stall':
        connection?.flow(this.#world.random.pick(['stream', 'return-path'] as const)).stall();
        return;
      case 'blackhole':
        this.#path.there.block();
        this.#world.after(forMs, () => this.#path.there.unblock());
        return;
      case 'refuse':
        this.#refusesUntilMs = nowMs + forMs;
        connection?.cut();
        return;
      case 'full':
        this.#fullUntilMs = nowMs + forMs;
        return;
      case 'lie':
      case 'unasked':
        this.#lies = what;
        return;
      case 'other-snapshot':
        this.#generation++;
        connection?.cut();
    }
  }

  #connect(): void {
    const { nowMs, random } = this.#world;
    if (this.#outcome !== undefined) return;
    const isBlocked = this.#path.there.isBlocked || this.#path.back.isBlocked;
    if (nowMs < this.#refusesUntilMs || isBlocked) {
      this.#connectLater();
      return;
    }
    this.#world.after(2 * this.#plan.link.delayMs, () => {
      // The server is the one who streams.
      const connection = new Connection(this.#world, this.#path.there, this.#path.back);
      this.#connection = connection;
      this.#servedGeneration = this.#generation;
      this.#serve(connection.near, random.integer(0, 0xffff));
      const end = connection.far;
      this.#end = end;
      end.onBytes = (bytes) => this.#receive(end, bytes);
      end.onEnd = (cause) => this.#lost(end, cause?.message ?? 'closed');
      this.#fetcher.beginSession(this.#world.nowMs);
      end.begin();
      this.#drive();
    });
  }

  #connectLater(): void {
    this.#world.after(this.#backOffMs * (0.5 + this.#world.random.fraction()), () => this.#connect());
    this.#backOffMs = Math.min(LONGEST_BACK_OFF_MS, this.#backOffMs * 2);
  }

  /** The source engine, pulled, as `postcopy serve` has one for each client. */
  #serve(end: End, salt: number): void {
    const { blocks } = this.#plan;
    const generation = this.#generation;
    const staging = new Uint8Array(STAGING_BYTES);
    const effects: (() => void)[] = [];
    const now = () => this.#world.nowMs;
    const content = (block: number, page: number) => this.#truth[block]?.[page] ?? 0;
    const engine = new SourceMigration({
      memory: {
        blocks,
        copyPage: (block, offset, target, at) => {
          const page = offset / TARGET_PAGE_BYTES;
          const view = new DataView(target.buffer, target.byteOffset + at, TARGET_PAGE_BYTES);
          view.setUint32(0, content(block, page));
          view.setUint32(4, block);
          view.setUint32(TARGET_PAGE_BYTES - 4, generation);
        },
        isZeroPage: () => false,
      },
      dirtyTracker: {
        start: (touched) => {
          touched.forEach((bitmap, block) => {
            for (let page = 0; page < bitmap.pageCount; page++)
              if (content(block, page) !== 0) bitmap.set(page);
          });
        },
        sync: () => {},
        stop: () => {},
      },
      dirtyBitmaps: blocks.map(({ lengthBytes }) => new PageBitmap(lengthBytes / TARGET_PAGE_BYTES)),
      machineType: 'simulated-1',
      encodeDevices: capturedDevices(new Uint8Array()),
      capabilities: { ...DEFAULT_CAPABILITIES, 'postcopy-ram': true },
      parameters: DEFAULT_PARAMETERS,
      hasReturnPath: true,
      isPulled: true,
      effects: {
        pauseGuest: () => effects.push(() => engine.guestPaused(true)),
        saveDevices: () => effects.push(() => engine.devicesSaved(deviceSection(generation), now())),
        resumeGuest: () => {},
        statusChanged: () => {},
        passBegins: () => {},
      },
      trace: NO_TRACE,
    });
    let isBusy = false;
    const pump = () => {
      if (isBusy || !end.isOpen) return;
      for (let effect = effects.shift(); effect !== undefined; effect = effects.shift()) effect();
      if (engine.isOver) {
        end.close();
        return;
      }
      if (end.queuedBytes > 65_536) return;
      const count = engine.fill(staging, now());
      if (effects.length > 0) this.#world.after(0, pump);
      if (count === 0) {
        const wakeAtMs = engine.wakeAtMs(now());
        if (wakeAtMs < END_MS) this.#world.after(Math.max(0.05, wakeAtMs - now()), pump);
        return;
      }
      isBusy = true;
      const bytes = staging.slice(0, count);
      // A server that lies does so once it has begun to send pages.
      if (this.#lies === 'lie' && engine.status === 'postcopy-active') {
        bytes[salt % count]! ^= 1 << (salt & 7);
        this.#lies = undefined;
      }
      if (this.#lies === 'unasked' && engine.status === 'postcopy-active') {
        end.write(bytes.slice());
        this.#lies = undefined;
      }
      end.write(bytes);
      engine.sent(count, now());
      this.#world.after(0.01, () => {
        isBusy = false;
        pump();
      });
    };
    end.onBytes = (bytes) => {
      engine.receive(bytes, now());
      pump();
    };
    end.onEnd = (cause) => {
      engine.channelLost(cause, now());
      pump();
      end.close();
    };
    end.onRoom = pump;
    engine.start(now());
    engine.startPostcopy();
    end.begin();
    pump();
  }

  // ---- client ----------------------------------------------------------------------------------------------

  #receive(end: End, bytes: Uint8Array): void {
    // Of what comes after the last page nothing is looked at.
    if (this.#outcome !== undefined) return;
    try {
      for (let at = 0; at < bytes.length && end === this.#end && this.#outcome === undefined; ) {
        const free = this.#fetcher.free();
        const count = Math.min(free.length, bytes.length - at, this.#plan.mostBytesAtOnce);
        free.set(bytes.subarray(at, at + count));
        at += count;
        this.#fetcher.received(count, this.#world.nowMs);
      }
    } catch (error) {
      if (error instanceof MigrationError) {
        if (this.#servedGeneration === this.#fetchedGeneration)
          this.#world.violate('snapshot', error.message);
        this.#finish('other-snapshot');
      } else if (error instanceof StreamError) {
        this.#refusals++;
        this.#lost(end, error.message);
      } else throw error;
    }
    this.#drive();
  }

  #lost(end: End, why: string): void {
    if (end !== this.#end || this.#outcome !== undefined) return;
    this.#world.note(`client: the session is lost: ${why}`);
    this.#end = undefined;
    end.close();
    if (this.#broken.isLossForgotten !== true) this.#fetcher.sessionLost();
    this.#connectLater();
  }

  #setStore({ content }: PulledSnapshot): void {
    content.forEach((bitmap, block) => {
      for (let page = 0; page < bitmap.pageCount; page++)
        if (!bitmap.isSet(page)) this.#available[block]?.set(page);
    });
    const isFull = () => this.#world.nowMs < this.#fullUntilMs;
    this.#fetcher.setStore(
      {
        available: this.#available,
        claims: NO_CLAIMS,
        present: undefined,
        writePage: (block, page, position) => this.#writePage(block, page, position),
        flush: () => {
          this.#written = [];
        },
        get isFull() {
          return isFull();
        },
      },
      [],
    );
    this.#identifiedAtMs = this.#world.nowMs;
    this.#drive();
  }

  #writePage(block: number, page: number, position: number): void {
    const stored = this.#stored[block] as Uint8Array;
    if (stored[page] === 1) this.#world.violate('stored twice', `page ${page} of block ${block}`);
    stored[page] = 1;
    this.#written.push([block, page]);
    const value = position < 0 ? 0 : this.#view.getUint32(position);
    const generation =
      position < 0 ? this.#fetchedGeneration : this.#view.getUint32(position + TARGET_PAGE_BYTES - 4);
    // Of a lie in the content nothing tells but a checksum; that it is a lie is known here.
    const isRight =
      generation === this.#fetchedGeneration &&
      value === this.#truth[block]?.[page] &&
      this.#view.getUint32(position + 4) === block;
    if (!isRight && !this.#plan.troubles.some(({ what }) => what === 'lie'))
      this.#world.violate('content', `page ${page} of block ${block}`);
  }

  #arrived(): void {
    if (this.#written.length > 0)
      this.#world.violate('order', 'pages are told of before they are in the store');
    for (const name of this.#waiting.keys()) {
      const [block = 0, page = 0] = name.split(':').map(Number);
      if (this.#available[block]?.isSet(page) !== true) continue;
      this.#checkWait(this.#waiting.get(name) as number);
      this.#waiting.delete(name);
    }
  }

  /** Where nothing goes wrong, a page that is waited for overtakes all that has not been asked for yet. */
  #checkWait(sinceMs: number): void {
    const { link, troubles } = this.#plan;
    if (troubles.length > 0) return;
    const waitedMs = this.#world.nowMs - Math.max(sinceMs, this.#identifiedAtMs);
    const longestMs = 4 * link.delayMs + MOST_UNDER_WAY_BYTES / link.bytesPerMs + 50;
    if (waitedMs > longestMs)
      this.#world.violate('slow', `a page came ${waitedMs} ms after it was asked for`);
  }

  #demandLater(count: number, everyMs: number): void {
    if (count === 0 || this.#outcome !== undefined) return;
    this.#world.after(everyMs * 2 * this.#world.random.fraction(), () => {
      const block = this.#world.random.integer(0, this.#available.length - 1);
      const page = this.#world.random.integer(0, (this.#available[block] as PageBitmap).pageCount - 1);
      if (this.#world.nowMs >= this.#identifiedAtMs && this.#available[block]?.isSet(page) === false) {
        this.#waiting.set(`${block}:${page}`, this.#world.nowMs);
        if (this.#broken.isDemandForgotten !== true) this.#fetcher.demand(block, page, this.#world.nowMs);
      }
      this.#demandLater(count - 1, everyMs);
    });
  }

  /** As the fetch thread does between any two things that happen. */
  #drive(): void {
    const wakeup = ++this.#wakeups;
    const { nowMs } = this.#world;
    if (this.#outcome !== undefined) return;
    this.#fetcher.tick(nowMs);
    const { sessions } = this.#fetcher.info();
    if (sessions > this.#sessions) this.#backOffMs = FIRST_BACK_OFF_MS;
    this.#sessions = sessions;
    if (this.#fetcher.isComplete) {
      this.#finish('complete');
      return;
    }
    const end = this.#end;
    if (end !== undefined && this.#broken.isSilenceIgnored !== true && this.#fetcher.isSilent(nowMs))
      this.#lost(end, 'the server does not answer');
    const wakeAtMs = Math.min(
      this.#fetcher.wakeAtMs(nowMs),
      nowMs < this.#fullUntilMs ? this.#fullUntilMs : END_MS,
    );
    if (wakeAtMs >= END_MS || (this.#broken.isSilenceIgnored === true && this.#fetcher.isSilent(nowMs)))
      return;
    this.#world.after(Math.max(0.05, wakeAtMs - nowMs), () => {
      if (wakeup === this.#wakeups) this.#drive();
    });
  }

  #finish(outcome: FetchOutcome['end']): void {
    this.#world.note(`client: ${outcome}`);
    this.#outcome = outcome;
    if (outcome === 'complete') this.#fetcher.endSession();
    const end = this.#end;
    this.#world.after(1000, () => end?.close());
  }

  #checkComplete(): void {
    this.#truth.forEach((pages, block) => {
      pages.forEach((value, page) => {
        if (value !== 0 && this.#stored[block]?.[page] !== 1)
          this.#world.violate('missing', `page ${page} of block ${block} was never stored`);
      });
    });
    if (this.#waiting.size > 0) this.#world.violate('hang', 'the guest waits for a page that is here');
  }
}

function deviceSection(generation: number): Uint8Array {
  const body = Uint8Array.of(generation);
  return writeDeviceSection({ sectionId: 7, idstr: 'simulated', instanceId: 0, versionId: 1, body });
}
