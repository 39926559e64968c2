/**
 * A virtual machine in a child process, as a benchmark holds it: the parent's side of vm-process.ts.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, fork } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { guestImagePath } from '../src/cli/package-info.ts';
import type { MigrationInfo } from '../src/migration/migration-info.ts';
import type { Parameters } from '../src/migration/parameters.ts';
import type { MigrationStatus } from '../src/migration/states.ts';
import type { ObjectProperties } from '../src/tls/object-properties.ts';
import type { VirtualMachineOptions } from '../src/vm/virtual-machine.ts';
import { MIB } from './bench.ts';

export type VmRequest = { readonly id: number } & VmCall;
type VmCall =
  | { readonly kind: 'create'; readonly options: VirtualMachineOptions }
  | {
      readonly kind: 'configure';
      readonly postcopy: boolean;
      readonly checksums: boolean;
      readonly parameters: Partial<Parameters>;
    }
  | { readonly kind: 'migrate' | 'listen'; readonly uri: string }
  | { readonly kind: 'add-object'; readonly properties: ObjectProperties }
  | { readonly kind: 'ended' | 'query' | 'stop' | 'console' | 'close' };
export interface VmReply {
  readonly id: number;
  readonly value?: unknown;
  readonly error?: string;
}

/** A line of a guest's console: ticks since boot, passes over its memory, milliseconds of its clock. */
export interface Tick {
  readonly tick: number;
  readonly pass: number;
  readonly ms: number;
}

export interface GuestSettings {
  readonly memoryMib: number;
  readonly guest: 'counter' | 'random' | 'reader';
  readonly commandLine: string;
  readonly dirtyTracking?: 'async' | 'sync';
}

/** So that a machine that hangs fails its benchmark. */
const DEADLINE_MS = 60_000;

export class RemoteVm {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  #nextId = 1;

  static async create(options: VirtualMachineOptions): Promise<RemoteVm> {
    const vm = new RemoteVm();
    try {
      await vm.#ask({ kind: 'create', options });
    } catch (error) {
      await vm.close();
      throw error;
    }
    return vm;
  }

  /** A guest that has prepared its memory and runs. */
  static async runGuest({ memoryMib, guest, commandLine, dirtyTracking }: GuestSettings): Promise<RemoteVm> {
    const vm = await RemoteVm.create({
      memoryBytes: memoryMib * MIB,
      kernelPath: guestImagePath(guest),
      commandLine,
      ...(dirtyTracking !== undefined && { dirtyTracking }),
    });
    try {
      await vm.until(async () => (await vm.ticks()).length > 0, 'the guest to tick');
    } catch (error) {
      await vm.close();
      throw error;
    }
    return vm;
  }

  private constructor() {
    this.#child = fork(fileURLToPath(new URL('./vm-process.js', import.meta.url)));
    this.#child.on('message', (reply: VmReply) => {
      const waiting = this.#waiting.get(reply.id);
      this.#waiting.delete(reply.id);
      if (reply.error === undefined) waiting?.resolve(reply.value);
      else waiting?.reject(new Error(reply.error));
    });
    this.#child.on('exit', () => {
      for (const { reject } of this.#waiting.values()) reject(new Error('The process of the machine ended'));
      this.#waiting.clear();
    });
  }

  configure(postcopy: boolean, parameters: Partial<Parameters>, checksums = false): Promise<void> {
    return this.#ask({ kind: 'configure', postcopy, checksums, parameters }) as Promise<void>;
  }

  addObject(properties: ObjectProperties): Promise<void> {
    return this.#ask({ kind: 'add-object', properties }) as Promise<void>;
  }

  /** For a machine that was made with `incoming: 'defer'`. */
  listen(uri: string): Promise<void> {
    return this.#ask({ kind: 'listen', uri }) as Promise<void>;
  }

  migrate(uri: string): Promise<void> {
    return this.#ask({ kind: 'migrate', uri }) as Promise<void>;
  }

  /** @throws if the migration ended in another way than completed */
  async completed(): Promise<MigrationInfo> {
    const status = (await this.#ask({ kind: 'ended' })) as MigrationStatus;
    const info = await this.query();
    assert.equal(status, 'completed', info['error-desc']);
    return info;
  }

  query(): Promise<MigrationInfo> {
    return this.#ask({ kind: 'query' }) as Promise<MigrationInfo>;
  }

  /** Where an incoming machine listens. */
  async address(): Promise<string> {
    const [address] = (await this.query())['socket-address'] ?? [];
    assert(address !== undefined, 'the machine listens');
    return address;
  }

  stop(): Promise<void> {
    return this.#ask({ kind: 'stop' }) as Promise<void>;
  }

  async ticks(): Promise<readonly Tick[]> {
    const text = (await this.#ask({ kind: 'console' })) as string;
    return [...text.matchAll(/^tick=(\d+) pass=(\d+) nonce=\w+ ms=(\d+)\n/gm)].map(([, tick, pass, ms]) => ({
      tick: Number(tick),
      pass: Number(pass),
      ms: Number(ms),
    }));
  }

  /** Resident memory of the process in bytes: now, and at its highest. */
  residentBytes(): { readonly now: number; readonly peak: number } {
    const status = readFileSync(`/proc/${this.#child.pid}/status`, 'latin1');
    const kib = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]);
    return { now: kib('VmRSS') * 1024, peak: kib('VmHWM') * 1024 };
  }

  async until(isTrue: () => Promise<boolean>, what: string): Promise<void> {
    const deadlineMs = performance.now() + DEADLINE_MS;
    while (!(await isTrue())) {
      assert(performance.now() < deadlineMs, `waited ${DEADLINE_MS} ms for ${what}`);
      await sleep(20);
    }
  }

  /** Ends the process. May be called twice. */
  async close(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exited = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.kill('SIGKILL');
    await exited;
  }

  #ask(call: VmCall): Promise<unknown> {
    const id = this.#nextId++;
    const answer = new Promise<unknown>((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#child.send({ id, ...call });
    });
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<never>((_resolve, reject) => {
      const error = new Error(`Waited ${DEADLINE_MS} ms for the answer to "${call.kind}"`);
      timer = setTimeout(() => reject(error), DEADLINE_MS);
    });
    return Promise.race([answer, timeout]).finally(() => clearTimeout(timer));
  }
}
