/**
 * Drives the legs of a relay, one after another: sleeps in poll(2) for both connections and for orders.
 */
import { type MessagePort, receiveMessageOnPort } from 'node:worker_threads';
import { drainEventfd, PollEvent, PollSet } from '../linux/poll.ts';
import { Recording } from './recording.ts';
import { type LegEnd, RelayLeg } from './relay-leg.ts';
import type { RelayNotice, RelayOrder, RelayThreadData } from './relay-messages.ts';
import { RelayObserver } from './relay-observer.ts';
import type { RelayReport } from './relay-report.ts';

const [SOURCE, DESTINATION, WAKE] = [0, 1, 2];

const STATE_AFTER = { done: 'completed', refused: 'failed', illegal: 'failed', stopped: 'failed' } as const;

export class RelayLoop {
  readonly #orders: MessagePort;
  readonly #wakeFd: number;
  readonly #polls = new PollSet(3);
  readonly #observer: RelayObserver;
  readonly #recording: Recording | undefined;
  #leg: RelayLeg | undefined;
  /** Bytes of legs that have ended. */
  #streamBytes = 0;
  #returnPathBytes = 0;
  #error: string | null = null;
  #isClosing = false;

  /** @throws system errors, if the recording cannot be opened */
  constructor({ orders, wakeFd, recordPath }: RelayThreadData) {
    this.#orders = orders;
    this.#wakeFd = wakeFd;
    this.#observer = new RelayObserver({
      clock: () => performance.now(),
      onState: (state) => this.#notify({ kind: 'state', state }),
    });
    this.#recording =
      recordPath === undefined
        ? undefined
        : new Recording(recordPath, (text) => this.#notify({ kind: 'message', text }));
  }

  /** Returns when it was ordered to close. All descriptors of legs are closed then, the recording is safe. */
  run(): void {
    this.#polls.set(WAKE!, this.#wakeFd, PollEvent.IN);
    while (!this.#isClosing) {
      const leg = this.#leg;
      this.#watch(SOURCE!, leg?.fds.sourceFd, leg?.sourceEvents ?? 0);
      this.#watch(DESTINATION!, leg?.fds.destinationFd, leg?.destinationEvents ?? 0);
      this.#polls.wait(leg?.waitMs() ?? -1);
      if (this.#polls.ready(WAKE!) !== 0) {
        drainEventfd(this.#wakeFd);
        this.#takeOrders();
      }
      if (leg === undefined || leg !== this.#leg) continue;
      if (leg.end === undefined) leg.step(this.#polls.ready(SOURCE!), this.#polls.ready(DESTINATION!));
      if (leg.end !== undefined) this.#onLegEnd(leg, leg.end);
    }
    this.#recording?.close();
    this.#polls.close();
    this.#notify({ kind: 'closed', report: this.#report() });
    this.#orders.close();
  }

  #watch(slot: number, fd: number | undefined, events: number): void {
    this.#polls.set(slot, fd === undefined || events === 0 ? -1 : fd, events);
  }

  #takeOrders(): void {
    for (
      let taken = receiveMessageOnPort(this.#orders);
      taken !== undefined;
      taken = receiveMessageOnPort(this.#orders)
    ) {
      this.#obey(taken.message as RelayOrder);
    }
  }

  #obey(order: RelayOrder): void {
    switch (order.kind) {
      case 'leg':
        this.#leg = new RelayLeg({
          fds: order.fds,
          observer: this.#observer,
          recording: this.#recording,
          clock: () => performance.now(),
          onPackage: () => this.#notify({ kind: 'package' }),
        });
        return;
      case 'hold':
        this.#leg?.hold(order.isHeld);
        return;
      case 'pass-package':
        this.#leg?.passPackage();
        return;
      case 'end-leg':
        this.#endLeg(order.end);
        return;
      case 'query':
        this.#notify({ kind: 'report', report: this.#report() });
        return;
      case 'close':
        this.#endLeg({ kind: 'stopped' });
        this.#isClosing = true;
        return;
    }
  }

  #endLeg(end: LegEnd): void {
    const leg = this.#leg;
    if (leg === undefined) return;
    leg.stop(end);
    this.#onLegEnd(leg, end);
  }

  #onLegEnd(leg: RelayLeg, end: LegEnd): void {
    this.#streamBytes += leg.streamBytes;
    this.#returnPathBytes += leg.returnPathBytes;
    leg.dispose();
    this.#leg = undefined;
    this.#error = 'text' in end ? end.text : null;
    const { isPostcopy } = this.#observer;
    const isPaused = isPostcopy && end.kind !== 'done' && end.kind !== 'refused';
    this.#observer.disconnected(
      isPaused ? 'postcopy-paused' : end.kind === 'lost' ? 'failed' : STATE_AFTER[end.kind],
    );
    this.#notify({ kind: 'leg-ended', end, isPostcopy });
  }

  #report(): RelayReport {
    return {
      ...this.#observer.report(),
      streamBytes: this.#streamBytes + (this.#leg?.streamBytes ?? 0),
      returnPathBytes: this.#returnPathBytes + (this.#leg?.returnPathBytes ?? 0),
      recording: this.#recording?.report ?? null,
      error: this.#error,
    };
  }

  #notify(notice: RelayNotice): void {
    this.#orders.postMessage(notice);
  }
}
