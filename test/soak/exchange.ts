/**
 * Two long-living processes that send each other one guest, there and back, in every way a migration can go well or be taken
 * back; and what they hold after each time.
 *
 *   precopy    over tcp:
 *   postcopy   over tcp:
 *   unix       postcopy over a unix socket
 *   cancelled  called off in precopy, then moved in precopy
 *   refused    nobody listens, then moved in postcopy
 *   recovered  postcopy, broken off by migrate-pause, recovered
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { atEnd } from '../support/cleanup.ts';
import { saveMemory } from '../support/guest-memory.ts';
import { POSTCOPY, startSource } from '../support/pair.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { until } from '../support/until.ts';
import { VmProcess } from '../support/vm-process.ts';
import { type ProcessResources, resourcesOf } from './process-resources.ts';

const WAYS = ['postcopy', 'precopy', 'unix', 'recovered', 'postcopy', 'cancelled', 'refused'] as const;
type Way = (typeof WAYS)[number];

const FAST = { 'max-bandwidth': 0, 'max-postcopy-bandwidth': 0, 'downtime-limit': 2_000_000 };
const SLOW = { 'max-bandwidth': 2 ** 20, 'max-postcopy-bandwidth': 256 * 1024, 'downtime-limit': 1 };

/** A socket of somebody who takes nothing in. */
const DEAF = 'deaf.sock';

/** Both processes, when the guest is at the first again. */
export interface Sample {
  readonly migrations: number;
  readonly sides: readonly [ProcessResources, ProcessResources];
}

export class Exchange {
  readonly sides: readonly [VmProcess, VmProcess];
  readonly folder: string;
  readonly memoryMib: number;
  /** Done so far. */
  migrations = 0;
  #recovered = 0;

  static async start(t: TestContext, { memoryMib = 16 } = {}): Promise<Exchange> {
    const folder = tempFolder(t);
    const source = await startSource(t, folder, { memoryMib, rangeMib: 4, guest: 'random', args: POSTCOPY });
    const memory = ['--memory', `${memoryMib}M`, ...POSTCOPY];
    // Who connects is not listened to: precopy does not end before it is called off.
    const server = createServer({ pauseOnConnect: true }).listen(join(folder, DEAF));
    atEnd(t, () => server.close());
    const other = await VmProcess.start(t, folder, 'other', [...memory, '--incoming', 'defer']);
    return new Exchange(folder, memoryMib, [source, other]);
  }

  private constructor(folder: string, memoryMib: number, sides: readonly [VmProcess, VmProcess]) {
    this.folder = folder;
    this.memoryMib = memoryMib;
    this.sides = sides;
  }

  /** Where the guest is. */
  get holder(): VmProcess {
    return this.sides[this.migrations % 2] as VmProcess;
  }

  get #waiter(): VmProcess {
    return this.sides[(this.migrations + 1) % 2] as VmProcess;
  }

  /** Moves the guest to the other process. */
  async move(): Promise<void> {
    // Each way in both directions: there are an odd number of them.
    await this.#moveBy(WAYS[this.migrations % WAYS.length] as Way);
    this.migrations++;
  }

  /** All memory of the guest, which stands still meanwhile. */
  async saveMemory(): Promise<Buffer> {
    const { holder } = this;
    await holder.qmp.execute('stop');
    try {
      return await saveMemory(holder, this.folder, { lengthBytes: this.memoryMib * 2 ** 20 });
    } finally {
      await holder.qmp.execute('cont');
    }
  }

  /** Of both processes at rest. */
  async sample(): Promise<Sample> {
    const [first, second] = this.sides;
    // A thread that has ended is still there until Node has heard of it.
    let last = '';
    await until('the threads of the migration to be gone', async () => {
      await first.info();
      await second.info();
      const now = [first, second].map(({ pid }) => resourcesOf(pid).threads).join();
      const isSame = now === last;
      last = now;
      return isSame;
    });
    return { migrations: this.migrations, sides: [resourcesOf(first.pid), resourcesOf(second.pid)] };
  }

  async #moveBy(way: Way): Promise<void> {
    const [from, to] = [this.holder, this.#waiter];
    const isPostcopy = !['precopy', 'cancelled'].includes(way);
    const socketPath = join(this.folder, 'migration.sock');
    if (way === 'refused') {
      await from.set(FAST);
      await assert.rejects(from.migrate(`unix:${join(this.folder, 'nobody')}`), /nobody/);
      const incoming = from.qmp.execute('migrate-incoming', { uri: 'tcp:127.0.0.1:0' });
      await assert.rejects(incoming, /has not moved away|already been started/);
    }
    if (way === 'cancelled') await this.#cancel(from);
    await to.qmp.execute('migrate-incoming', {
      uri: way === 'unix' ? `unix:${socketPath}` : 'tcp:127.0.0.1:0',
    });
    await from.set({ ...(way === 'recovered' ? SLOW : FAST), 'x-postcopy-start-time': isPostcopy ? 1 : 0 });
    // Only what is said from here on tells of this migration.
    for (const vm of this.sides) vm.qmp.events.length = 0;
    await from.migrate(await to.address());
    if (way === 'recovered') await this.#breakAndRecover(from, to);
    for (const vm of this.sides) await untilCompleted(vm);
    await until('the guest to run there', async () => (await to.runState()) === 'running');
    assert.equal(await from.runState(), 'postmigrate');
    if (way === 'unix') assert(!existsSync(socketPath), 'a socket file is left');
  }

  async #cancel(from: VmProcess): Promise<void> {
    await from.set({ ...SLOW, 'x-postcopy-start-time': 0 });
    await from.migrate(`unix:${join(this.folder, DEAF)}`);
    await from.qmp.execute('migrate_cancel');
    await from.qmp.execute('migrate_cancel');
    assert.equal((await from.info()).status, 'cancelled');
    assert.equal(await from.runState(), 'running');
  }

  async #breakAndRecover(from: VmProcess, to: VmProcess): Promise<void> {
    await from.untilStatus('postcopy-active');
    await until('the guest to run there', async () => (await to.runState()) === 'running');
    await until('a request', async () => ((await from.info()).ram?.['postcopy-requests'] ?? 0) > 0);
    await (this.#recovered++ % 2 === 0 ? from : to).qmp.execute('migrate-pause');
    for (const vm of this.sides) await vm.untilStatus('postcopy-paused');
    await to.qmp.execute('migrate-recover', { uri: 'tcp:127.0.0.1:0' });
    await from.set(FAST);
    const [uri] = (await to.info())['socket-address'] ?? [];
    await from.qmp.execute('migrate', { uri, resume: true });
  }
}

/** As `untilStatus`, but from a pause that is being recovered too. */
async function untilCompleted(vm: VmProcess): Promise<void> {
  await until(
    `${vm.name} to be done`,
    async () => {
      const { status } = await vm.info();
      assert(status !== 'failed', vm.describe());
      return status === 'completed';
    },
    () => vm.describe(),
  );
}
