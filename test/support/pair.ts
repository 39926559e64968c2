/**
 * A source with a guest and a destination that waits for it: two processes, and the proof that the guest moved whole.
 */
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import { checkMemory, saveMemory } from './guest-memory.ts';
import { tempFolder } from './temp-folder.ts';
import { assertOneGuest } from './ticks.ts';
import { VmProcess } from './vm-process.ts';

export interface PairOptions {
  readonly guest?: 'counter' | 'random' | 'reader';
  readonly memoryMib?: number;
  /** How much memory the guest uses. */
  readonly rangeMib?: number;
  /** Where the destination waits; `{folder}` is the test's folder. */
  readonly incoming?: string;
  /** Arguments for both sides, e.g. a capability; and for one. `{folder}` is the test's folder. */
  readonly args?: readonly string[];
  readonly sourceArgs?: readonly string[];
  readonly destinationArgs?: readonly string[];
  /** Commands that run the two, see `spawnProgram`. */
  readonly sourceWithin?: readonly string[];
  readonly destinationWithin?: readonly string[];
}

export interface Pair {
  readonly folder: string;
  readonly source: VmProcess;
  readonly destination: VmProcess;
  readonly memoryBytes: number;
}

export const POSTCOPY = ['--capability', 'postcopy-ram=on'] as const;

/** Too little for a guest that writes its memory all the time: precopy does not converge. */
export const SLOW = { 'max-bandwidth': 2 * 2 ** 20 } as const;

/** Starts both; the guest has written its first line when this resolves. */
export async function startPair(t: TestContext, options: PairOptions = {}): Promise<Pair> {
  const { memoryMib = 64, incoming = 'tcp:127.0.0.1:0', args = [] } = options;
  const folder = tempFolder(t);
  const common = ['--memory', `${memoryMib}M`, ...args];
  const uri = incoming.replace('{folder}', folder);
  const [source, destination] = await Promise.all([
    startSource(t, folder, options),
    VmProcess.start(
      t,
      folder,
      'destination',
      [...common, '--incoming', uri, ...inFolder(options.destinationArgs ?? [], folder)],
      options.destinationWithin,
    ),
  ]);
  return { folder, source, destination, memoryBytes: memoryMib * 2 ** 20 };
}

/** A source alone, its guest at work. */
export async function startSource(
  t: TestContext,
  folder: string,
  options: PairOptions = {},
): Promise<VmProcess> {
  const { guest = 'counter', memoryMib = 64, rangeMib = 8, args = [], sourceArgs = [] } = options;
  const machine = ['--memory', `${memoryMib}M`, '--guest', guest, '--append', `range=${rangeMib}M`];
  const source = await VmProcess.start(
    t,
    folder,
    'source',
    [...machine, ...args, ...inFolder(sourceArgs, folder)],
    options.sourceWithin,
  );
  await source.untilTicks(1);
  return source;
}

function inFolder(args: readonly string[], folder: string): string[] {
  return args.map((arg) => arg.replace('{folder}', folder));
}

export async function untilCompleted({ source, destination }: Pair): Promise<void> {
  await source.untilStatus('completed');
  await destination.untilStatus('completed');
}

/**
 * The guest runs at the destination as if nothing had been: its memory is right at both ends, its lines and its clock go
 * on. Leaves it paused there.
 */
export async function proveMove(pair: Pair): Promise<void> {
  const { source, destination } = pair;
  assert.equal(await source.runState(), 'postmigrate');
  assert.equal(await destination.runState(), 'running');
  await destination.untilTicks(2);
  await destination.qmp.execute('stop');

  const { before, after } = await proveMemory(pair);
  assert(after.pass > before.pass || after.edgeAt >= before.edgeAt, 'the guest went back');
  assert(after.tick > before.tick);
  assertOneGuest(source.console, destination.console);
}

/** Both ends hold a right state of the same guest. */
export async function proveMemory({ folder, source, destination, memoryBytes }: Pair) {
  const before = checkMemory(await saveMemory(source, folder, { lengthBytes: memoryBytes }));
  const after = checkMemory(await saveMemory(destination, folder, { lengthBytes: memoryBytes }));
  assert.equal(after.nonce, before.nonce, 'another guest is at the destination');
  return { before, after };
}

/** Both processes end well. */
export async function quitBoth({ source, destination }: Pair): Promise<void> {
  assert.deepEqual(await source.quit(), { code: 0, signal: null });
  assert.deepEqual(await destination.quit(), { code: 0, signal: null });
}
