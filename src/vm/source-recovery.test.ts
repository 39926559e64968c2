import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { MigrationStatus } from '../migration/states.ts';
import type { Channel } from '../transport/channel.ts';
import { backOffMs, type RecoveryHost } from './recovery-host.ts';
import { SourceRecovery } from './source-recovery.ts';

const CHANNEL = { hasReturnPath: true, close: () => {} } as unknown as Channel;

/** A source whose migration is interrupted. `connects` answers each attempt. */
class Rig {
  status: MigrationStatus = 'postcopy-paused';
  reconnectMs = 0;
  readonly tried: string[] = [];
  readonly told: string[] = [];
  readonly recovery: SourceRecovery;
  connects: (attempt: number) => Promise<Channel> = () => Promise.reject(new Error('refused'));
  #changed = () => {};

  constructor() {
    const rig = this;
    const host: RecoveryHost = {
      get status() {
        return rig.status;
      },
      get reconnectMs() {
        return rig.reconnectMs;
      },
      isClosed: false,
      setStatus: (status, error, isTold = true) => {
        this.status = status;
        if (error !== undefined && isTold) this.told.push(error);
        this.recovery.heed(status);
        this.#changed();
      },
      message: (text) => this.told.push(text),
      connect: async (uri, signal) => {
        this.tried.push(uri);
        const aborted = new Promise<never>((_, reject) =>
          signal.addEventListener('abort', () => reject(new Error('aborted'))),
        );
        return await Promise.race([this.connects(this.tried.length), aborted]);
      },
      listen: () => Promise.reject(new Error('a source does not listen')),
    };
    const migration = {
      recover: async () => {
        this.enter('postcopy-active');
      },
      breakOff: async () => {},
    };
    this.recovery = new SourceRecovery(host, migration, 'tcp:there:1');
  }

  enter(status: MigrationStatus): void {
    this.status = status;
    this.recovery.heed(status);
    this.#changed();
  }

  async until(condition: () => boolean): Promise<void> {
    const alive = setInterval(() => {}, 1000);
    while (!condition())
      await new Promise<void>((resolve) => {
        this.#changed = resolve;
      });
    clearInterval(alive);
  }
}

test('backOffMs() doubles from 100 ms up to its limit', () => {
  assert.deepEqual(
    [0, 1, 2, 3].map((failures) => backOffMs(failures, 500)),
    [100, 200, 400, 500],
  );
  assert.equal(backOffMs(1e9, 3_600_000), 3_600_000);
  assert.equal(backOffMs(0, 1), 1);
});

test('SourceRecovery tries nothing by itself unless it is told to', async () => {
  const rig = new Rig();
  rig.recovery.heed('postcopy-paused');
  assert.equal(rig.recovery.hold(), false);
  assert.deepEqual(rig.tried, []);
});

test('SourceRecovery tries by itself until it succeeds, and tells the same failure once', async () => {
  const rig = new Rig();
  rig.reconnectMs = 1;
  rig.connects = (attempt) => (attempt < 4 ? Promise.reject(new Error('refused')) : Promise.resolve(CHANNEL));
  rig.recovery.heed('postcopy-paused');
  await rig.until(() => rig.status === 'postcopy-active');
  assert.deepEqual(rig.tried, Array(4).fill('tcp:there:1'));
  assert.deepEqual(rig.told, ['The migration is not recovered: refused']);
});

test('SourceRecovery.resume() takes the place of an attempt that hangs, and its address counts from then on', async () => {
  const rig = new Rig();
  rig.reconnectMs = 1;
  rig.connects = () => new Promise(() => {});
  rig.recovery.heed('postcopy-paused');
  await rig.until(() => rig.status === 'postcopy-recover-setup');
  rig.connects = () => Promise.resolve(CHANNEL);
  await rig.recovery.resume('tcp:elsewhere:2');
  assert.equal(rig.status, 'postcopy-active');
  rig.enter('postcopy-paused');
  await rig.until(() => rig.status === 'postcopy-active');
  assert.deepEqual(rig.tried, ['tcp:there:1', 'tcp:elsewhere:2', 'tcp:elsewhere:2']);
});

test('SourceRecovery.hold() ends the attempts until the next resume()', async () => {
  const rig = new Rig();
  rig.reconnectMs = 1;
  rig.connects = () => new Promise(() => {});
  rig.recovery.heed('postcopy-paused');
  await rig.until(() => rig.status === 'postcopy-recover-setup');
  assert.equal(rig.recovery.hold(), true);
  await rig.until(() => rig.status === 'postcopy-paused');
  assert.equal(rig.recovery.hold(), false, 'nothing is to come');
  rig.connects = () => Promise.reject(new Error('refused'));
  await assert.rejects(rig.recovery.resume('tcp:there:1'), /not recovered: refused/);
  rig.connects = () => Promise.resolve(CHANNEL);
  await rig.until(() => rig.status === 'postcopy-active');
});

test('SourceRecovery.resume() is refused where nothing is interrupted', async () => {
  const rig = new Rig();
  rig.status = 'postcopy-active';
  await assert.rejects(rig.recovery.resume('tcp:there:1'), /no paused migration/);
});
