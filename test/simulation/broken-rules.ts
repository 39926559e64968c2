/**
 * Rules broken on purpose, by ports that do not keep their word: the simulation must find each.
 */
import type { PageBitmap } from '../../src/memory/page-bitmap.ts';
import type { DestinationMemory } from '../../src/migration/destination-ports.ts';
import type { DirtyTracker, SourceEffects } from '../../src/migration/source-ports.ts';
import type { World } from './world.ts';

export interface BrokenRule {
  readonly dirtyTracker?: (tracker: DirtyTracker, world: World) => DirtyTracker;
  readonly sourceEffects?: (effects: SourceEffects, world: World) => SourceEffects;
  readonly destinationMemory?: (memory: DestinationMemory, world: World) => DestinationMemory;
  readonly requestSender?: (
    send: (message: Uint8Array) => void,
    world: World,
  ) => (message: Uint8Array) => void;
  /** In place of asking again for the pages that are waited for. */
  readonly askAgain?: (ask: () => void) => void;
  /** The bitmap of a block that the source goes by, in place of the destination's. */
  readonly heldPages?: (sourceDirty: PageBitmap) => PageBitmap;
}

/** One discard does not drop its pages. */
export const FORGOTTEN_DISCARD: BrokenRule = {
  destinationMemory: (memory) => {
    let discards = 0;
    return delegate(memory, {
      discard: (block, offset, lengthBytes) => {
        if (discards++ > 0) memory.discard(block, offset, lengthBytes);
      },
    });
  },
};

/** One message that asks for a page is lost. */
export const DROPPED_REQUEST: BrokenRule = {
  requestSender: (send) => {
    let requests = 0;
    return (message) => {
      if (requests++ !== 1) send(message);
    };
  },
};

/** A page is placed again, over what the guest may have written. */
export const PAGE_PLACED_TWICE: BrokenRule = {
  destinationMemory: (memory) =>
    delegate(memory, {
      placePage: (block, offset, position) => {
        memory.placePage(block, offset, position);
        return memory.placePage(block, offset, position);
      },
    }),
};

/** A page the guest wrote is not reported as dirty. */
export const FORGOTTEN_WRITE: BrokenRule = {
  dirtyTracker: (tracker) => {
    let isForgotten = false;
    return delegate(tracker, {
      sync: (dirty: readonly PageBitmap[]) => {
        tracker.sync(dirty);
        const page = dirty[0]?.nextSet(0) ?? -1;
        if (isForgotten || page < 0) return;
        isForgotten = true;
        dirty[0]?.clear(page);
      },
    });
  },
};

/** After a recovery nothing is asked for that was asked for before it. */
export const NOT_ASKED_AGAIN: BrokenRule = { askAgain: () => {} };

/** The source goes by what it has sent, not by what has arrived. */
export const FORGOTTEN_COMPLEMENT: BrokenRule = { heldPages: (sourceDirty) => sourceDirty.complement() };

/** The source lets its guest go on although it was handed over. */
export const GUEST_ON_BOTH_SIDES: BrokenRule = {
  sourceEffects: (effects) =>
    delegate(effects, {
      statusChanged: (status, error) => {
        effects.statusChanged(status, error);
        if (status === 'postcopy-active') effects.resumeGuest();
      },
    }),
};

/** `port` with some of its methods replaced. */
function delegate<Port extends object>(port: Port, replaced: Partial<Port>): Port {
  return new Proxy(port, {
    get: (target, name) => {
      const own = (replaced as Record<string | symbol, unknown>)[name];
      if (own !== undefined) return own;
      const value = Reflect.get(target, name, target) as unknown;
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}
