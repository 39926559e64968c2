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

export type Place = 'source' | 'destination';

const LOG_LINES = 60;
/** Many times what any run needs. */
const MAX_EVENTS = 200_000;

export class World {
  readonly random: Random;
  nowMs = 0;
  /** Which side's machine runs the guest at this moment. */
  guestAt: Place | undefined;
  /** The guest has run at the destination: it can never again run at the source. */
  hasMoved = false;
  readonly #events: Event[] = [];
  #orders = 0;
  readonly #log: string[] = [];
  /** Kept, because an engine that calls a port takes what the port throws for a failure of its own. */
  #violation: Violation | undefined;

  constructor(seed: number) {
    this.random = new Random(seed);
  }

  /** @param delayMs from now */
  after(delayMs: number, happen: () => void): void {
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
    this.#log.push(`${this.nowMs.toFixed(3).padStart(10)} ${text}`);
    if (this.#log.length > LOG_LINES) this.#log.shift();
  }

  /** The last lines of the log. */
  get story(): string {
    return this.#log.join('\n');
  }

  violate(rule: string, what: string): never {
    this.#violation ??= new Violation(`${rule}: ${what}`);
    throw this.#violation;
  }

  guestRuns(at: Place): void {
    this.note(`guest runs at the ${at}`);
    if (this.guestAt !== undefined)
      this.violate('two guests', `it runs at the ${this.guestAt} and now at the ${at}`);
    if (this.hasMoved && at === 'source') this.violate('two guests', 'it has run at the destination before');
    this.guestAt = at;
    if (at === 'destination') this.hasMoved = true;
  }

  guestStops(at: Place): void {
    this.note(`guest stops at the ${at}`);
    if (this.guestAt === at) this.guestAt = undefined;
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
