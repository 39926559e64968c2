/**
 * A guest of a real QEMU that was saved to a file, and `postcopy restore` with the QEMU that it starts from it.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { tempFolder } from '../support/temp-folder.ts';
import { until } from '../support/until.ts';
import { Qemu, type QemuOptions } from './qemu.ts';

const PROGRAM = fileURLToPath(new URL('../../../bin/postcopy.js', import.meta.url));

/** A guest that was saved. */
export interface Saved {
  readonly folder: string;
  readonly path: string;
  readonly options: QemuOptions;
  /** What the guest had written to its console. */
  readonly lastTick: number;
  readonly nonce: string;
}

/** A guest that has been at work is saved by QEMU, which then ends. */
export async function save(t: TestContext, options: QemuOptions = {}): Promise<Saved> {
  const folder = tempFolder(t);
  const qemu = await Qemu.start(t, folder, { name: 'saved', ...options });
  await qemu.untilMoreTicks(3);
  await qemu.qmp.execute('stop');
  const path = join(folder, 'vm.snap');
  await qemu.qmp.execute('migrate', { uri: `exec:cat > '${path}'` });
  assert.equal(await qemu.migrationEnd(), 'completed');
  const last = qemu.ticks.at(-1);
  await qemu.qmp.execute('quit').catch(() => {});
  await qemu.untilEnded();
  return { folder, path, options, lastTick: last?.tick ?? 0, nonce: last?.nonce ?? '' };
}

export interface RestoreOptions {
  /** Where the snapshot is, rather than in its file: the address of a server. */
  readonly from?: string;
  readonly name?: string;
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

/** `postcopy restore` and the QEMU it starts; the options of QEMU are those of the one that was saved. */
export function restore(
  t: TestContext,
  saved: Saved,
  { from = saved.path, name = 'restored', args = [], env = {} }: RestoreOptions = {},
) {
  const launcher = [process.execPath, PROGRAM, 'restore', ...args, from, '--'];
  return Qemu.start(t, saved.folder, { ...saved.options, name, launcher, env });
}

/** The guest runs on, from where it was saved, and all of its memory is right. The snapshot says it was paused. */
export async function proveRestored(qemu: Qemu, { lastTick, nonce }: Saved): Promise<void> {
  await until('the guest to arrive', async () => (await qemu.runState()) === 'paused');
  await qemu.qmp.execute('cont');
  await qemu.untilMoreTicks(2);
  await until(
    'all memory',
    () => qemu.stderr.includes('all memory is there'),
    () => qemu.describe(),
  );
  const [first] = qemu.ticks;
  assert.equal(first?.nonce, nonce, 'another guest');
  assert((first?.tick ?? 0) > lastTick, `tick ${first?.tick} follows tick ${lastTick}`);
  const report = await qemu.proveOneEdge();
  assert.equal(report.nonce, Number.parseInt(nonce, 16));
}

/** QEMU is told to quit, and its launcher ends with it. */
export async function quit(qemu: Qemu): Promise<void> {
  await qemu.qmp.execute('quit').catch(() => {});
  assert.deepEqual(await qemu.untilEnded(), { code: 0, signal: null });
}
