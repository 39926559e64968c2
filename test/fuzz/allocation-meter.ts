/**
 * Counts the bytes that code takes for typed arrays and buffers while it runs, without regard to what it gives back.
 *
 * Exact, and the same in every run, which the collected memory of a process is not. It stands in for the constructors that
 * code calls by name; memory that a copy takes by itself (`slice`) is bounded by what is copied, and not counted.
 */
const COUNTED = ['Uint8Array', 'Int32Array', 'Float64Array', 'Uint32Array', 'BigUint64Array'] as const;

export class AllocationMeter {
  allocatedBytes = 0;
  largestBytes = 0;

  /** Runs `what` and counts. Not to be nested. */
  async run<Result>(what: () => Result | Promise<Result>): Promise<Result> {
    const undo = this.#stepIn();
    try {
      return await what();
    } finally {
      undo();
    }
  }

  #count(lengthBytes: number): void {
    if (!Number.isFinite(lengthBytes)) return;
    this.allocatedBytes += lengthBytes;
    this.largestBytes = Math.max(this.largestBytes, lengthBytes);
  }

  #stepIn(): () => void {
    const globals = globalThis as unknown as Record<string, unknown>;
    const originals = new Map<string, unknown>();
    for (const name of COUNTED) {
      const original = globals[name] as Uint8ArrayConstructor;
      originals.set(name, original);
      globals[name] = new Proxy(original, {
        construct: (target, args: unknown[], newTarget) => {
          const [first] = args;
          if (typeof first === 'number') this.#count(first * target.BYTES_PER_ELEMENT);
          return Reflect.construct(target, args, newTarget === globals[name] ? target : newTarget) as object;
        },
      });
    }
    const original = globals['SharedArrayBuffer'] as SharedArrayBufferConstructor;
    originals.set('SharedArrayBuffer', original);
    globals['SharedArrayBuffer'] = new Proxy(original, {
      construct: (target, args: unknown[]) => {
        this.#count(Number(args[0]));
        return Reflect.construct(target, args) as object;
      },
    });
    const { alloc, concat } = Buffer;
    Buffer.alloc = ((size: number, ...rest: []) => {
      this.#count(size);
      return alloc(size, ...rest);
    }) as typeof Buffer.alloc;
    Buffer.concat = ((list: readonly Uint8Array[], ...rest: []) => {
      this.#count(list.reduce((sum, { length }) => sum + length, 0));
      return concat(list, ...rest);
    }) as typeof Buffer.concat;
    return () => {
      for (const [name, value] of originals) globals[name] = value;
      Object.assign(Buffer, { alloc, concat });
    };
  }
}
