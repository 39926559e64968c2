/** What the main thread and the thread of a relay say to each other. */
import type { MessagePort } from 'node:worker_threads';
import type { LegEnd, LegFds } from './relay-leg.ts';
import type { RelayReport, RelayState } from './relay-report.ts';

export interface RelayThreadData {
  readonly orders: MessagePort;
  /** Signalled with every order. */
  readonly wakeFd: number;
  readonly recordPath: string | undefined;
}

export type RelayOrder =
  /** Relays between these; the thread closes them. */
  | { readonly kind: 'leg'; readonly fds: LegFds }
  /** Gives the leg up that is under way: with `stopped` for good, with `lost` another will come. */
  | { readonly kind: 'end-leg'; readonly end: LegEnd }
  /** Takes nothing from the source, or takes again, as long as its guest has not left. */
  | { readonly kind: 'hold'; readonly isHeld: boolean }
  /** Answers `package`. */
  | { readonly kind: 'pass-package' }
  | { readonly kind: 'query' }
  /** Ends the thread, which answers with `closed`. */
  | { readonly kind: 'close' };

export type RelayNotice =
  | { readonly kind: 'state'; readonly state: RelayState }
  /** A package is next, with which the guest leaves the source. It waits for `pass-package`. */
  | { readonly kind: 'package' }
  /** @param isPostcopy whether the guest may run at the destination, so that a lost leg can be followed by another */
  | { readonly kind: 'leg-ended'; readonly end: LegEnd; readonly isPostcopy: boolean }
  | { readonly kind: 'report'; readonly report: RelayReport }
  /** For the operator. */
  | { readonly kind: 'message'; readonly text: string }
  | { readonly kind: 'closed'; readonly report: RelayReport };
