/**
 * The simulated network between two hosts: connections that behave as TCP does, over a path that gets worse.
 *
 * Bytes of a direction come out in order, later, and cut anywhere. What can go wrong, and who learns of it:
 *
 *   cut         both ends, by a reset, each at its own time
 *   half-close  something between them closes one direction: its reader sees the end; what its writer writes vanishes
 *   blackhole   packets of a direction vanish, of this path for a while or of one connection for ever. What is lost is sent
 *               again afterwards. Each end gives up by itself after a minute, as keepalive and the user time-out have it
 *   stall       something between them takes what is sent and passes nothing on: no end ever learns of it
 *
 * Reset, end and bytes share one order in each direction, so what was under way before them arrives before them.
 */
import type { World } from './world.ts';

/** Keepalive and the user time-out of both ends give up about then. */
const SILENCE_MS = 60_000;

/** One direction of the path between the hosts, as it is at this moment. */
export class Path {
  delayMs: number;
  bytesPerMs: number;
  readonly #flows = new Set<Flow>();
  #blocks = 0;

  constructor(link: { readonly delayMs: number; readonly bytesPerMs: number }) {
    this.delayMs = link.delayMs;
    this.bytesPerMs = link.bytesPerMs;
  }

  get isBlocked(): boolean {
    return this.#blocks > 0;
  }

  /** Packets vanish until `unblock` was called as often. */
  block(): void {
    this.#blocks++;
    for (const flow of this.#flows) flow.pathChanged();
  }

  unblock(): void {
    this.#blocks--;
    for (const flow of this.#flows) flow.pathChanged();
  }

  add(flow: Flow): void {
    this.#flows.add(flow);
  }

  remove(flow: Flow): void {
    this.#flows.delete(flow);
  }
}

type Item = Uint8Array | 'end' | Error;

/** One direction of a connection: from the end that writes to the one that reads. */
export class Flow {
  readonly path: Path;
  /** The end that reads. */
  reader: End | undefined;
  /** The end that writes. */
  writer: End | undefined;
  /** Written, and not on its way yet. */
  queuedBytes = 0;
  readonly #world: World;
  readonly #queue: Item[] = [];
  /** On their way, in order; the first `#heldCount` have been lost and will be sent again. */
  #arrivals: Item[] = [];
  #heldCount = 0;
  #isSending = false;
  #lastArrivalMs = 0;
  #isLost = false;
  #isStalled = false;
  /** Nothing more goes in. */
  #isSealed = false;
  #isDropped = false;
  /** What is lost is not sent again any more: its writer has given up. */
  #isGivenUp = false;
  #cutOffSince = 0;
  #wasCutOff = false;

  constructor(world: World, path: Path) {
    this.#world = world;
    this.path = path;
    path.add(this);
    this.#wasCutOff = path.isBlocked;
  }

  /** Packets vanish. */
  get isCutOff(): boolean {
    return this.#isLost || this.path.isBlocked;
  }

  get isBlocked(): boolean {
    return this.isCutOff || this.#isStalled;
  }

  get isStalled(): boolean {
    return this.#isStalled;
  }

  write(item: Item): void {
    if (this.#isSealed) return;
    if (!(item instanceof Uint8Array)) this.#isSealed = true;
    else this.queuedBytes += item.length;
    this.#queue.push(item);
    this.#send();
  }

  /** From here on nothing of this connection passes in this direction. */
  loseForGood(): void {
    this.#isLost = true;
    this.pathChanged();
  }

  /** The same, but whatever is sent is taken: the ends do not notice. */
  stall(): void {
    this.#isStalled = true;
  }

  /** Something on the way closes this direction: the reader sees the end behind what is under way. */
  halfClose(): void {
    if (this.#isSealed) return;
    this.#drop();
    this.#depart('end');
  }

  /** Of what is under way only so much arrives, and then a reset. */
  break(): void {
    const { random } = this.#world;
    const wasSealed = this.#isSealed;
    this.#drop();
    if (wasSealed) return;
    const underWayBytes = this.#arrivals.reduce((sum, item) => sum + lengthOf(item), 0);
    let arrivingBytes = random.chance(0.4) ? 0 : random.integer(0, underWayBytes);
    this.#arrivals = this.#arrivals.map((item) => {
      if (!(item instanceof Uint8Array)) return item;
      const arriving = item.subarray(0, arrivingBytes);
      arrivingBytes -= arriving.length;
      return arriving;
    });
    this.#depart(new Error('read: ECONNRESET'), random.skewed(50));
  }

  pathChanged(): void {
    if (this.isCutOff === this.#wasCutOff) return;
    this.#wasCutOff = this.isCutOff;
    if (this.isCutOff) {
      this.#cutOffSince = this.#world.nowMs;
      this.#giveUpLater(this.#cutOffSince);
      return;
    }
    // The pauses between attempts to send again grow meanwhile.
    this.#world.after(this.#world.random.skewed(2000), () => {
      if (this.isBlocked) return;
      while (this.#heldCount > 0) {
        this.#heldCount--;
        this.#deliver(this.#arrivals.shift());
      }
      this.#send();
    });
  }

  /** The writer's kernel does not try any longer: what has not arrived never will. */
  giveUp(): void {
    this.#drop();
    this.#isGivenUp = true;
    this.#arrivals.splice(0, this.#heldCount);
    this.#heldCount = 0;
  }

  /** Nobody is at either end any more. */
  forget(): void {
    this.path.remove(this);
  }

  /** Each end misses the answers of the other, whichever direction is lost. */
  #giveUpLater(since: number): void {
    for (const end of [this.reader, this.writer]) {
      this.#world.after(SILENCE_MS * (0.95 + 0.3 * this.#world.random.fraction()), () => {
        if (this.isCutOff && this.#cutOffSince === since) end?.timeOut();
      });
    }
  }

  #send(): void {
    if (this.#isSending || this.#queue.length === 0 || this.isCutOff) return;
    const item = this.#queue.shift() as Item;
    if (!(item instanceof Uint8Array)) {
      this.#depart(item);
      return;
    }
    this.#isSending = true;
    this.#world.after(item.length / this.path.bytesPerMs, () => {
      this.#isSending = false;
      if (this.#isDropped) return;
      this.queuedBytes -= item.length;
      this.#depart(item);
      this.writer?.roomCame();
      this.#send();
    });
  }

  #depart(item: Item, extraMs = 0): void {
    this.#arrivals.push(item);
    const { nowMs } = this.#world;
    this.#lastArrivalMs = Math.max(this.#lastArrivalMs, nowMs + this.path.delayMs) + extraMs;
    this.#world.after(this.#lastArrivalMs - nowMs, () => {
      if (this.#heldCount >= this.#arrivals.length) return;
      if (this.isBlocked && this.#isGivenUp) this.#arrivals.splice(this.#heldCount, 1);
      else if (this.isBlocked || this.#heldCount > 0) this.#heldCount++;
      else this.#deliver(this.#arrivals.shift());
    });
  }

  #deliver(item: Item | undefined): void {
    const { reader } = this;
    if (item === undefined || reader === undefined) return;
    if (reader.isOpen) reader.take(item);
    // Nobody reads any more: the writer is told, if it is still there and can be reached.
    else if (item instanceof Uint8Array && !reader.isVanished) this.writer?.resetByPeer();
  }

  #drop(): void {
    this.#isSealed = true;
    this.#isDropped = true;
    this.#queue.length = 0;
    this.queuedBytes = 0;
  }
}

/** One end of a connection, as a process holds it. */
export class End {
  isOpen = true;
  /** Its host is gone: nothing answers there. */
  isVanished = false;
  onBytes: (bytes: Uint8Array) => void = () => {};
  /** Once: undefined if the peer closed in good order. */
  onEnd: (cause: Error | undefined) => void = () => {};
  /** More can be written. */
  onRoom: () => void = () => {};
  readonly #world: World;
  readonly #out: Flow;
  readonly #in: Flow;
  #early: Item[] | undefined = [];
  #isAtEnd = false;
  #isBroken = false;

  constructor(world: World, out: Flow, incoming: Flow) {
    this.#world = world;
    this.#out = out;
    this.#in = incoming;
    out.writer = this;
    incoming.reader = this;
  }

  /** Written, and not on its way yet. */
  get queuedBytes(): number {
    return this.#out.queuedBytes;
  }

  /** From here on what comes is handed on; what came before, now. */
  begin(): void {
    const early = this.#early ?? [];
    this.#early = undefined;
    for (const item of early) if (this.isOpen) this.take(item);
  }

  /** @returns false if the connection is known to be gone */
  write(bytes: Uint8Array): boolean {
    if (!this.isOpen || this.#isBroken) return false;
    this.#out.write(bytes);
    return true;
  }

  /** In good order; what comes from now on is answered by a reset. May be called twice. */
  close(): void {
    if (!this.isOpen) return;
    this.isOpen = false;
    if (!this.#isBroken) this.#out.write('end');
    this.#peerAsksLater();
  }

  /** With bytes unread: what is not under way yet is lost, and perhaps more. */
  abort(): void {
    if (!this.isOpen) return;
    this.isOpen = false;
    this.#out.break();
  }

  /** Its host loses its power. */
  vanish(): void {
    this.isOpen = false;
    this.isVanished = true;
    this.#out.loseForGood();
    this.#in.loseForGood();
  }

  take(item: Item): void {
    if (this.#early !== undefined) this.#early.push(item);
    else if (item instanceof Uint8Array) {
      if (item.length > 0 && !this.#isAtEnd) this.onBytes(item);
    } else if (item === 'end') this.#ended(undefined);
    else this.fail(item);
  }

  /** The connection is gone, as this end sees it. */
  fail(cause: Error): void {
    if (!this.isOpen || this.#isBroken) return;
    this.#isBroken = true;
    if (this.#early !== undefined) this.#early.push(cause);
    else {
      this.#ended(cause);
      // Whoever waits to write learns of it as well.
      if (this.isOpen) this.onRoom();
    }
  }

  /** Nothing was heard for too long. Also of an end that is closed: its kernel does not try any longer. */
  timeOut(): void {
    this.#out.giveUp();
    this.fail(new Error('read: ETIMEDOUT'));
  }

  /** The other end has closed and gets more: its reset is on its way. */
  resetByPeer(): void {
    if (this.#in.isBlocked) return;
    this.#world.after(this.#in.path.delayMs, () => this.fail(new Error('write: ECONNRESET')));
  }

  roomCame(): void {
    if (this.isOpen && !this.#isBroken) this.onRoom();
  }

  /** A peer that was not told is answered by a reset when its keepalive asks, unless something between them answers. */
  #peerAsksLater(): void {
    this.#world.after(SILENCE_MS * (0.5 + this.#world.random.fraction()), () => {
      const peer = this.#out.reader;
      if (peer === undefined || !peer.isOpen || peer.isAtEnd || this.isVanished) return;
      if (this.#out.isStalled || this.#in.isStalled) return;
      if (this.#out.path.isBlocked || this.#in.path.isBlocked) this.#peerAsksLater();
      else peer.fail(new Error('read: ECONNRESET'));
    });
  }

  /** The end has come, or the connection is gone. */
  get isAtEnd(): boolean {
    return this.#isAtEnd;
  }

  #ended(cause: Error | undefined): void {
    if (this.#isAtEnd) return;
    this.#isAtEnd = true;
    this.onEnd(cause);
  }
}

/** A connection between two hosts: the stream goes from the first end to the second. */
export class Connection {
  readonly stream: Flow;
  readonly returnPath: Flow;
  /** The end of who connected, the source. */
  readonly near: End;
  readonly far: End;

  constructor(world: World, streamPath: Path, returnPath: Path) {
    this.stream = new Flow(world, streamPath);
    this.returnPath = new Flow(world, returnPath);
    this.near = new End(world, this.stream, this.returnPath);
    this.far = new End(world, this.returnPath, this.stream);
  }

  cut(): void {
    this.stream.break();
    this.returnPath.break();
  }

  flow(direction: Direction): Flow {
    return direction === 'stream' ? this.stream : this.returnPath;
  }
}

export type Direction = 'stream' | 'return-path';

function lengthOf(item: Item): number {
  return item instanceof Uint8Array ? item.length : 0;
}
