/**
 * The built-in machine: an x86 PC emulated by v86.
 *
 * It needs a worker thread of its own, one machine per thread: the guest runs in this thread's event loop, a page the
 * guest misses blocks the whole thread, and guest time is wired into v86 when this thread imports it.
 *
 * RAM is two blocks inside v86's WebAssembly memory, which grows but never moves: `pc.ram`, and `vga.vram`, the linear
 * frame buffer. The disk files are only read; what the guest writes to a disk moves with the device state, so both ends
 * must be given the same files.
 */
import type { RamBlock } from '../../memory/ram-block.ts';
import { TARGET_PAGE_BYTES } from '../../memory/ram-block.ts';
import { type DeviceSection, type Machine, monotonicNs } from '../machine.ts';
import { getDeviceState, MAX_QUEUED_BYTES, setDeviceState } from './device-state.ts';
import type { DiskImage } from './disk-image.ts';
import { GuestClock } from './guest-clock.ts';
import { hostAddressOf } from './host-address.ts';
import { decodeDeviceState, encodeDeviceState } from './state-codec.ts';
import {
  createV86,
  device,
  member,
  ramOf,
  type V86Emulator,
  type V86Settings,
  v86Version,
  videoRamOf,
} from './v86-internals.ts';
import { type GuestEvent, loadSettings, type V86MachineOptions } from './v86-options.ts';

const WARM_UP_ROUNDS = 8;

/** v86 binds the clock of the first import, so a thread has one clock, and one machine at a time may use it. */
const clock = new GuestClock();
let isClockInUse = false;

export class V86Machine implements Machine {
  readonly machineType: string;
  readonly ramBlocks: readonly RamBlock[];
  readonly deviceSection: DeviceSection = { idstr: 'v86', instanceId: 0, versionId: 1 };

  readonly #emulator: V86Emulator;
  readonly #disks: readonly DiskImage[];
  readonly #onSerial: ((bytes: Uint8Array) => void) | undefined;
  readonly #onEvent: ((event: GuestEvent) => void) | undefined;
  readonly #hasBios: boolean;
  #isBootable: boolean;
  #isRunning = false;
  #isClosed = false;
  #failure: Error | undefined;
  #pausedAtNs = monotonicNs();
  #resumedAtNs = 0n;
  #pausing: Promise<bigint> | undefined;
  #onStopped: (() => void) | undefined;
  #serialOutput: number[] = [];

  private constructor(emulator: V86Emulator, settings: V86Settings, options: V86MachineOptions) {
    const { cpu } = emulator.loop;
    this.#emulator = emulator;
    this.#disks = [settings.hda, settings.cdrom];
    this.#onSerial = options.onSerial;
    this.#onEvent = options.onEvent;
    this.#hasBios = settings.bios !== undefined;
    this.#isBootable = this.#hasBios || options.kernel !== undefined;
    this.machineType = `v86-${v86Version()}`;
    this.ramBlocks = [blockOf('pc.ram', ramOf(cpu)), blockOf('vga.vram', videoRamOf(cpu))];
    this.#listen();
  }

  /**
   * Makes a machine that does not run yet. Without a kernel and a BIOS nothing is loaded, and v86 does not touch RAM
   * before the guest runs; a page of it may hold remains of v86's own heap. With one, RAM holds what the guest boots from.
   *
   * @throws {RangeError} if a size is not one the machine can have
   * @throws {TypeError} if the kernel is none, or is a bzImage and there is no BIOS
   * @throws {Error} if a file cannot be read, or this thread has a machine
   */
  static async create(options: V86MachineOptions): Promise<V86Machine> {
    if (isClockInUse)
      throw new Error('Cannot create machine: this thread has one, and guest time is per thread');
    isClockInUse = true;
    let settings: V86Settings | undefined;
    try {
      clock.set(0, Date.now());
      settings = await loadSettings(options);
      const emulator = await createV86(settings, clock);
      checkCreated(emulator, settings);
      const machine = new V86Machine(emulator, settings, options);
      machine.#warmUp();
      return machine;
    } catch (error) {
      settings?.hda.close();
      settings?.cdrom.close();
      isClockInUse = false;
      throw error;
    }
  }

  /** The guest's time in milliseconds since its machine was made; stands still while paused. */
  get guestNowMs(): number {
    return clock.nowMs();
  }

  pause(): Promise<bigint> {
    if (!this.#isRunning) return Promise.resolve(this.#pausedAtNs);
    this.#pausing ??= new Promise((resolve) => {
      const { loop } = this.#emulator;
      this.#onStopped = () => {
        this.#pausing = undefined;
        resolve(this.#pausedAtNs);
      };
      loop.stop();
      // A halted guest sleeps until its next timer; this tick comes at once and finds that it must stop.
      loop.next_tick(0);
    });
    return this.#pausing;
  }

  /**
   * @throws {Error} if the guest has crashed, or there is none: no kernel, no BIOS, and no state was loaded
   */
  async resume(): Promise<bigint> {
    this.#checkUsable();
    await this.#pausing;
    if (this.#isRunning) return this.#resumedAtNs;
    if (!this.#isBootable)
      throw new Error('Cannot resume machine: it has no kernel, no BIOS and no loaded state');

    this.#isRunning = true;
    this.#resumedAtNs = monotonicNs();
    clock.start();
    this.#emulator.loop.run();
    return this.#resumedAtNs;
  }

  async saveDevices(): Promise<Uint8Array> {
    this.#checkPaused('save devices');
    return this.#encodeDevices();
  }

  async loadDevices(state: Uint8Array): Promise<void> {
    this.#checkPaused('load devices');
    try {
      const { guestNowMs, guestEpochMs, tree } = decodeDeviceState(state);
      clock.set(guestNowMs, guestEpochMs);
      setDeviceState(this.#emulator.loop.cpu, tree);
    } catch (error) {
      this.#failure = error as Error;
      throw error;
    }
    this.#isBootable = true;
  }

  /**
   * Gives bytes to the guest on COM1. What the guest does not read waits, and moves with the device state.
   *
   * @throws {RangeError} if more than `MAX_QUEUED_BYTES` would wait; then none of them is taken
   */
  sendSerial(bytes: Uint8Array): void {
    this.#checkUsable();
    const { loop, bus } = this.#emulator;
    const waiting = member<number[]>(device(loop.cpu, 'uart0'), 'input', 'object').length;
    if (waiting + bytes.length > MAX_QUEUED_BYTES) {
      throw new RangeError(
        `Cannot send to serial console: ${waiting} bytes wait, the limit is ${MAX_QUEUED_BYTES}`,
      );
    }
    for (const byte of bytes) bus.send('serial0-input', byte);
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    await this.pause();
    this.#emulator.loop.destroy();
    for (const disk of this.#disks) disk.close();
    isClockInUse = false;
  }

  /**
   * Saves, and loads where nothing is loaded yet, a few times: the first times take ten times as long, until the host
   * has compiled the code, and in a migration they would count as downtime.
   */
  #warmUp(): void {
    const { cpu } = this.#emulator.loop;
    for (let round = 0; round < WARM_UP_ROUNDS; round++) {
      const state = decodeDeviceState(this.#encodeDevices());
      if (!this.#isBootable) setDeviceState(cpu, state.tree);
    }
  }

  #encodeDevices(): Uint8Array {
    return encodeDeviceState({
      guestNowMs: clock.nowMs(),
      guestEpochMs: clock.epochMs,
      tree: getDeviceState(this.#emulator.loop.cpu),
    });
  }

  #listen(): void {
    const { loop, bus } = this.#emulator;
    const { cpu } = loop;
    bus.register('serial0-output-byte', (byte: number) => this.#serialOutput.push(byte), this);
    bus.register('cpu-event-halt', () => this.#onEvent?.({ kind: 'halted' }), this);
    bus.register('emulator-stopped', () => this.#stopped(), this);

    const { reboot_internal } = cpu;
    cpu.reboot_internal = () => {
      this.#onEvent?.({ kind: 'reset' });
      if (!this.#hasBios)
        throw new Error('The guest reset the machine, which has no BIOS to start again from');
      reboot_internal.call(cpu);
    };

    const { do_tick } = loop;
    loop.do_tick = () => {
      try {
        clock.withDate(() => do_tick.call(loop));
      } catch (error) {
        this.#crashed(error);
      }
      if (this.#serialOutput.length > 0) this.#flushSerial();
    };
  }

  #stopped(): void {
    if (!this.#isRunning) return;
    this.#pausedAtNs = monotonicNs();
    clock.stop();
    this.#isRunning = false;
    this.#onStopped?.();
    this.#onStopped = undefined;
  }

  #crashed(cause: unknown): void {
    const detail = cause instanceof Error ? cause.message : String(cause);
    const error = new Error(`The guest crashed: ${detail}`, { cause });
    this.#failure = error;
    this.#emulator.loop.running = false;
    this.#stopped();
    this.#onEvent?.({ kind: 'crashed', error });
  }

  #flushSerial(): void {
    const bytes = Uint8Array.from(this.#serialOutput);
    this.#serialOutput = [];
    this.#onSerial?.(bytes);
  }

  #checkUsable(): void {
    if (this.#isClosed) throw new Error('Cannot use machine: it is closed');
    if (this.#failure !== undefined) {
      throw new Error(`Cannot use machine: ${this.#failure.message}`, { cause: this.#failure });
    }
  }

  #checkPaused(action: string): void {
    this.#checkUsable();
    if (this.#isRunning) throw new Error(`Cannot ${action}: the machine runs`);
  }
}

/**
 * v86 corrects sizes it does not like without a word; the blocks must have the length both ends agreed on. And Node
 * grows a WebAssembly memory in place only where it could reserve address space for all of it; v86 grows it as it runs.
 */
function checkCreated({ loop: { cpu } }: V86Emulator, { memory_size, vga_memory_size }: V86Settings): void {
  const { length: ramBytes } = ramOf(cpu);
  const { length: videoRamBytes } = videoRamOf(cpu);
  if (ramBytes !== memory_size || videoRamBytes !== vga_memory_size) {
    throw new RangeError(
      `Cannot create machine: v86 gave ${ramBytes} bytes of memory and ${videoRamBytes} of video memory, ` +
        `not ${memory_size} and ${vga_memory_size}`,
    );
  }

  const addressBefore = hostAddressOf(ramOf(cpu));
  cpu.wasm_memory.grow(1);
  if (hostAddressOf(ramOf(cpu)) !== addressBefore) {
    throw new Error(
      'Cannot create machine: its memory moved when it grew, as if address space were limited (ulimit -v)',
    );
  }
}

function blockOf(idstr: string, bytes: Uint8Array): RamBlock {
  const hostAddress = hostAddressOf(bytes);
  if (hostAddress % BigInt(TARGET_PAGE_BYTES) !== 0n) {
    throw new Error(
      `Cannot create machine: ${idstr} is at 0x${hostAddress.toString(16)}, not on a page boundary`,
    );
  }
  return { idstr, lengthBytes: bytes.length, pageSizeBytes: TARGET_PAGE_BYTES, hostAddress };
}
