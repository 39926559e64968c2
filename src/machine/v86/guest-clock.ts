/**
 * The guest's time: stands still while the machine is paused, and moves with it.
 *
 * v86 takes all its time from two functions of its host: `performance.now`, which it binds when it is imported (TSC,
 * PIT, ACPI timer, APIC timer), and `Date` (RTC). Another process's `performance.now` counts from another moment, so a
 * guest moved with the host's time would see its own jump or run backwards.
 *
 * Guest time is milliseconds since the guest's machine was made; the guest's date is that plus an epoch.
 */
const hostNowMs = performance.now.bind(performance);
const HostDate = Date;

export class GuestClock {
  #epochMs = HostDate.now();
  #stoodAtMs = 0;
  #startedAtHostMs: number | undefined;

  /** Guest time in milliseconds, to the host clock's resolution. */
  readonly nowMs = (): number =>
    this.#startedAtHostMs === undefined
      ? this.#stoodAtMs
      : this.#stoodAtMs + (hostNowMs() - this.#startedAtHostMs);

  /** What the guest's date is at guest time 0, in milliseconds since 1970. */
  get epochMs(): number {
    return this.#epochMs;
  }

  start(): void {
    this.#startedAtHostMs ??= hostNowMs();
  }

  stop(): void {
    this.#stoodAtMs = this.nowMs();
    this.#startedAtHostMs = undefined;
  }

  /** Takes on another clock's time; the clock must stand still. */
  set(nowMs: number, epochMs: number): void {
    if (this.#startedAtHostMs !== undefined) throw new Error('Cannot set the guest clock while it runs');
    this.#stoodAtMs = nowMs;
    this.#epochMs = epochMs;
  }

  /** `Date` as the guest must see it: without arguments it is the guest's date. */
  readonly Date: DateConstructor = dateOf(() => this.#epochMs + this.nowMs());

  /** Runs `body` with this clock's `Date` as the global one. */
  withDate<Result>(body: () => Result): Result {
    globalThis.Date = this.Date;
    try {
      return body();
    } finally {
      globalThis.Date = HostDate;
    }
  }

  /** Imports a module that binds `performance.now` when it is evaluated, with this clock's in its place. */
  async importWithNow<Module>(load: () => Promise<Module>): Promise<Module> {
    Object.defineProperty(performance, 'now', { value: this.nowMs, configurable: true });
    try {
      return await load();
    } finally {
      Reflect.deleteProperty(performance, 'now');
    }
  }
}

function dateOf(now: () => number): DateConstructor {
  return new Proxy(HostDate, {
    construct: (target, args: [], newTarget) =>
      Reflect.construct(target, args.length === 0 ? [now()] : args, newTarget) as Date,
    get: (target, name, receiver) => (name === 'now' ? now : Reflect.get(target, name, receiver)),
  });
}
