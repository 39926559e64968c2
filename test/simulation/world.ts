/**
 * The simulated world: its clock, what will happen when, a log of what happened, and the one guest.
 *
 * Nothing happens between two events; events of one moment happen in the order they were asked for.
 */
import { Random } from './random.ts';

/** A rule that must always hold does not; `name` says which. */
export class Violation extends Error {
  override readonly name = 'Violation';
}

interface Event {
  readonly atMs: number;
  readonly order: number;
  readonly happen: () => void;
}

/** Where a guest can run: the source, or one of the destinations that it is sent to, one after the other. */
export type Place = 'source' | `destination ${number}`;

const LOG_LINES = 60;
/** Many times what any run needs. */
const MAX_EVENTS = 400_000;

export class World {
  readonly random: Random;
  nowMs = 0;
  /** Which machine runs the guest at this moment. */
  guestAt: Place | undefined;
  /** The guest has run there: it can never again run elsewhere, unless all that it did there is gone with its process. */
  movedTo: Place | undefined;
  /** A run that began at the source again, after the destination that had run the guest was killed. */
  isRolledBack = false;
  readonly #keepsAll: boolean;
  readonly #gone = new Set<Place>();
  readonly #events: Event[] = [];
  #orders = 0;
  readonly #log: string[] = [];
  #hash = 0x811c_9dc5;
  /** Kept, because an engine that calls a port takes what the port throws for a failure of its own. */
  #violation: Violation | undefined;

  /** @param keepsAll the whole story, rather than its last lines */
  constructor(seed: number, keepsAll = false) {
    this.random = new Random(seed);
    this.#keepsAll = keepsAll;
  }

  /** @param delayMs from now, not negative */
  after(delayMs: number, happen: () => void): void {
    if (!(delayMs >= 0)) throw new RangeError(`Time does not go back, by ${delayMs} ms`);
    push(this.#events, { atMs: this.nowMs + delayMs, order: this.#orders++, happen });
  }

  /** Lets events happen until none is left. @throws {Violation} if that is not so at `endMs` */
  run(endMs: number): void {
    for (let event = pop(this.#events); event !== undefined; event = pop(this.#events)) {
      if (event.atMs > endMs) this.violate('hang', `something still goes on after ${endMs} ms`);
      if (this.#orders > MAX_EVENTS) this.violate('hang', `more than ${MAX_EVENTS} things happen`);
      this.nowMs = event.atMs;
      event.happen();
      if (this.#violation !== undefined) throw this.#violation;
    }
  }

  note(text: string): void {
    const line = `${this.nowMs.toFixed(3).padStart(10)} ${text}`;
    for (let at = 0; at < line.length; at++)
      this.#hash = Math.imul(this.#hash ^ line.charCodeAt(at), 0x0100_0193);
    this.#log.push(line);
    if (!this.#keepsAll && this.#log.length > LOG_LINES) this.#log.shift();
  }

  /** The last lines of the log, or all. */
  get story(): string {
    return this.#log.join('\n');
  }

  /** Of all lines of the log, and of how many things happened: the same for the same run, another for any other. */
  get hash(): string {
    return (Math.imul(this.#hash ^ this.#orders, 0x0100_0193) >>> 0).toString(16).padStart(8, '0');
  }

  violate(rule: string, what: string): never {
    this.#violation ??= new Violation(`${rule}: ${what}`);
    throw this.#violation;
  }

  guestRuns(at: Place): void {
    this.note(`guest runs at the ${at}`);
    if (this.guestAt !== undefined)
      this.violate('two guests', `it runs at the ${this.guestAt} and now at the ${at}`);
    if (this.movedTo !== undefined && this.movedTo !== at) {
      if (!this.#gone.has(this.movedTo))
        this.violate('two guests', `it has run at the ${this.movedTo} before`);
      this.isRolledBack = true;
    }
    this.guestAt = at;
    this.movedTo = at === 'source' ? undefined : at;
  }

  guestStops(at: Place): void {
    this.note(`guest stops at the ${at}`);
    if (this.guestAt === at) this.guestAt = undefined;
  }

  /** Its process is gone, and with it whatever a guest did there. */
  placeIsGone(at: Place): void {
    this.#gone.add(at);
    if (this.guestAt === at) this.guestStops(at);
  }

  isGone(at: Place): boolean {
    return this.#gone.has(at);
  }
}

function isBefore(left: Event, right: Event): boolean {
  return left.atMs < right.atMs || (left.atMs === right.atMs && left.order < right.order);
}

/** The events are a heap: each is before its two children, at twice its index plus one and two. */
function push(heap: Event[], event: Event): void {
  let index = heap.length;
  heap.push(event);
  while (index > 0) {
    const parent = (index - 1) >>> 1;
    if (!isBefore(event, heap[parent] as Event)) break;
    heap[index] = heap[parent] as Event;
    index = parent;
  }
  heap[index] = event;
}

function pop(heap: Event[]): Event | undefined {
  const first = heap[0];
  const last = heap.pop();
  if (last === undefined || heap.length === 0) return first;
  let index = 0;
  for (;;) {
    let child = index * 2 + 1;
    if (child >= heap.length) break;
    if (child + 1 < heap.length && isBefore(heap[child + 1] as Event, heap[child] as Event)) child++;
    if (!isBefore(heap[child] as Event, last)) break;
    heap[index] = heap[child] as Event;
    index = child;
  }
  heap[index] = last;
  return first;
}
