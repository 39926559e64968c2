/**
 * Rules broken on purpose, by ports that do not keep their word: the simulation must find each.
 */
import { PageBitmap } from '../../src/memory/page-bitmap.ts';
import type { DestinationMemory } from '../../src/migration/destination-ports.ts';
import type { SourceMigration } from '../../src/migration/source.ts';
import type { DirtyTracker, SourceEffects } from '../../src/migration/source-ports.ts';
import { PingValue } from '../../src/wire/commands.ts';
import { encodePong, encodeRecvBitmap } from '../../src/wire/return-path.ts';
import { ReturnPathDecoder } from '../../src/wire/return-path-decoder.ts';
import type { SourceSide } from './source-side.ts';
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
  /** What the destination says in place of a message of its engine. */
  readonly returnPath?: (message: Uint8Array, source: SourceSide) => readonly Uint8Array[];
  /** In place of telling the engine to cancel. */
  readonly cancel?: (engine: SourceMigration, world: World) => void;
  /** In place of when the engine wants to be woken. */
  readonly wakeAtMs?: (engine: SourceMigration, nowMs: number) => number;
  /** The destination waits for its source for ever. */
  readonly isDestinationPatient?: true;
  /** Whoever finds the source not knowing who has the guest lets it run there. */
  readonly isOperatorRash?: true;
  /** RUN is in the package although the source will take its guest back as if it were not. */
  readonly isRunEarly?: true;
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
export const FORGOTTEN_COMPLEMENT: BrokenRule = {
  returnPath: (message, source) =>
    withBitmap(message, (_, block) => (source.dirtyBitmaps[block] as PageBitmap).complement()),
};

/** In a recovery a page that has not come is said to be there. */
export const BITMAP_BIT_GAINED: BrokenRule = {
  returnPath: (message, source) =>
    withBitmap(message, (held, block) => {
      const missing = held.complement().nextSet(0);
      // One that the source has never sent it would not believe.
      if (missing >= 0 && source.dirtyBitmaps[block]?.isSet(missing) === false) held.set(missing);
      return held;
    }),
};

/** In a recovery a page that is there is said to be missing. */
export const BITMAP_BIT_LOST: BrokenRule = {
  returnPath: (message) =>
    withBitmap(message, (held) => {
      const present = held.nextSet(0);
      if (present >= 0) held.clear(present);
      return held;
    }),
};

/** The destination says that it has the guest when its package has not come yet. */
export const EARLY_ACK: BrokenRule = {
  returnPath: (message) => {
    const [decoded] = new ReturnPathDecoder().push(message);
    if (decoded?.type !== 'pong' || decoded.value !== PingValue.DISCARDS_SENT) return [message];
    return [message, encodePong(PingValue.IN_PACKAGE)];
  },
};

/** The source does not wake up when a recovery takes too long. */
export const TIMEOUT_NEVER_ARMED: BrokenRule = {
  wakeAtMs: (engine, nowMs) =>
    engine.status === 'postcopy-recover' ? Number.POSITIVE_INFINITY : engine.wakeAtMs(nowMs),
  isDestinationPatient: true,
};

/** A cancel is taken, and nothing is cancelled. */
export const CANCEL_IGNORED: BrokenRule = { cancel: () => {} };

/** The operator lets the guest run at the source without a look at the destination. */
export const RASH_OPERATOR: BrokenRule = { isOperatorRash: true };

/** RUN is sent before the handshake: when that fails, the source takes back a guest that may run already. */
export const RUN_BEFORE_HANDSHAKE: BrokenRule = { isRunEarly: true };

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

/** The bitmap of a block as another, if the message holds one. */
function withBitmap(
  message: Uint8Array,
  change: (held: PageBitmap, block: number) => PageBitmap,
): Uint8Array[] {
  const [decoded] = new ReturnPathDecoder({ maxBitmapBytes: 1024 }).push(message);
  if (decoded?.type !== 'recv-bitmap') return [message];
  const block = ['pc.ram', 'vga.vram', 'pc.bios'].indexOf(decoded.idstr);
  const held = PageBitmap.fromBytes(decoded.bitmap.length * 8, decoded.bitmap);
  return [encodeRecvBitmap(decoded.idstr, change(held, block).toBytes())];
}

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
