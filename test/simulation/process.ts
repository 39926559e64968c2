/**
 * A simulated process: what happens to it waits while it is frozen, and is void once it is dead.
 */
import type { World } from './world.ts';

export class SimulatedProcess {
  isAlive = true;
  /** The last time that it was frozen, until then. */
  thawedAtMs = Number.NEGATIVE_INFINITY;
  readonly #world: World;
  readonly #backlog: (() => void)[] = [];
  #frozenUntilMs = Number.NEGATIVE_INFINITY;

  constructor(world: World) {
    this.#world = world;
  }

  get isFrozen(): boolean {
    return this.#world.nowMs < this.#frozenUntilMs;
  }

  run(act: () => void): void {
    if (!this.isAlive) return;
    if (this.isFrozen || this.#backlog.length > 0) this.#backlog.push(act);
    else act();
  }

  after(delayMs: number, act: () => void): void {
    this.#world.after(delayMs, () => this.run(act));
  }

  /** SIGSTOP, and SIGCONT so much later. */
  freeze(forMs: number): void {
    this.#frozenUntilMs = Math.max(this.#frozenUntilMs, this.#world.nowMs + forMs);
    // A little later, so that it is over for certain by this clock.
    this.#world.after(this.#frozenUntilMs - this.#world.nowMs + 0.01, () => this.#thaw());
  }

  kill(): void {
    this.isAlive = false;
    this.#backlog.length = 0;
  }

  #thaw(): void {
    if (this.isFrozen) return;
    this.thawedAtMs = this.#world.nowMs;
    while (this.isAlive && !this.isFrozen) {
      const act = this.#backlog.shift();
      if (act === undefined) return;
      act();
    }
  }
}
