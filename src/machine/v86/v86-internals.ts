/**
 * Everything this project knows of the inside of v86: members its types do not declare, checked to be there.
 *
 * Written against the version package.json pins; the JavaScript of that build keeps its property names. Whoever
 * changes the version runs the contract suite and reads cpu.js (`get_state`, `set_state`, `init`) and main.js again.
 */
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import type { DiskImage } from './disk-image.ts';
import type { GuestClock } from './guest-clock.ts';
import type { StateArray, StateValue } from './state-codec.ts';

/** A queue of bytes whose content is only to be had by taking it out. */
export interface V86ByteQueue {
  length: number;
  push(byte: number): void;
  shift(): number;
}

/** A device: its scalars are reached by name (device-state.ts says which). */
export type V86Device = Record<string, unknown>;

export interface V86Cpu {
  readonly mem8: Uint8Array;
  readonly wasm_memory: { readonly buffer: ArrayBuffer; grow(pages: number): number };
  readonly devices: Record<string, V86Device | undefined>;
  readonly bios: { readonly main: ArrayBuffer | undefined };
  fw_pointer: number;
  /** Views of WebAssembly memory that `set_state` replaces by plain arrays; see `setV86State`. */
  last_result: Int32Array;
  fpu_status_word: Uint16Array;
  mxcsr: Int32Array;
  get_state(): unknown[];
  set_state(state: StateValue[]): void;
  pack_memory(): unknown;
  unpack_memory(bitmap: unknown, packed: unknown): void;
  reboot_internal(): void;
}

/** The main loop: a tick runs the guest for about a millisecond and asks for the next one. */
export interface V86Loop {
  readonly cpu: V86Cpu;
  running: boolean;
  run(): void;
  stop(): void;
  do_tick(): void;
  next_tick(delayMs: number): void;
  destroy(): void;
  init(settings: object): void;
}

export interface V86Bus {
  send(name: string, value?: unknown): void;
  register(name: string, listener: (value: never) => void, thisValue: unknown): void;
}

export interface V86Emulator {
  readonly loop: V86Loop;
  /** To and from the devices: `serial0-input`, `serial0-output-byte`, `emulator-stopped`, `cpu-event-halt`. */
  readonly bus: V86Bus;
}

/** What v86 is made with, under the names of its options. */
export interface V86Settings {
  readonly memory_size: number;
  readonly vga_memory_size: number;
  readonly acpi: boolean;
  readonly hda: DiskImage;
  readonly cdrom: DiskImage;
  readonly cmdline?: string;
  readonly bios?: { buffer: ArrayBuffer };
  readonly vga_bios?: { buffer: ArrayBuffer };
  readonly multiboot?: { buffer: ArrayBuffer };
  readonly bzimage?: { buffer: ArrayBuffer };
  readonly initrd?: { buffer: ArrayBuffer };
}

/** The types of Node 20 do not declare it. */
declare const WebAssembly: {
  instantiate(module: Uint8Array, imports: object): Promise<{ instance: { exports: object } }>;
};

const requireFrom = createRequire(import.meta.url);

/** The version of the v86 that is installed, e.g. `0.5.462`; what follows a `+` names its build and is left out. */
export function v86Version(): string {
  const { version } = requireFrom('v86/package.json') as { version: string };
  return version.replace(/\+.*/, '');
}

/**
 * Makes an emulator that does not run yet.
 *
 * @throws {Error} what v86 throws while it loads the kernel or reserves the memory
 */
export async function createV86(settings: V86Settings, clock: GuestClock): Promise<V86Emulator> {
  const mainPath = requireFrom.resolve('v86');
  const wasm = await readFile(join(dirname(mainPath), 'v86.wasm'));
  const { V86 } = (await clock.importWithNow(() => import('v86'))) as unknown as { V86: V86Constructor };

  return new Promise((resolve, reject) => {
    const starter = new V86({
      ...settings,
      autostart: false,
      disable_keyboard: true,
      disable_mouse: true,
      disable_speaker: true,
      net_device: { type: 'none' },
      // v86 starts from promises and timers of its own, whose errors would reach nobody: all of ours end in `reject`.
      wasm_fn: async (imports: object) => {
        try {
          const { instance } = await WebAssembly.instantiate(wasm, imports);
          return instance.exports;
        } catch (error) {
          reject(error);
          return new Promise(() => {});
        }
      },
    });
    const { continue_init } = starter;
    starter.continue_init = async (loop, options) => {
      try {
        const { init } = checkedLoop(loop);
        loop.init = (initSettings) => {
          try {
            clock.withDate(() => init.call(loop, initSettings));
          } catch (error) {
            reject(error);
          }
        };
        starter.bus.register('emulator-loaded', () => resolve({ loop, bus: starter.bus }), undefined);
        await continue_init.call(starter, loop, options);
      } catch (error) {
        reject(error);
      }
    };
  });
}

interface V86Starter {
  readonly bus: V86Bus;
  continue_init(loop: V86Loop, options: object): Promise<void>;
}
type V86Constructor = new (options: object) => V86Starter;

/** Bytes of guest RAM as they are now: the view ends when the WebAssembly memory grows. */
export function ramOf(cpu: V86Cpu): Uint8Array {
  return new Uint8Array(cpu.wasm_memory.buffer, cpu.mem8.byteOffset, cpu.mem8.length);
}

/** Bytes of the linear frame buffer, under the same condition. */
export function videoRamOf(cpu: V86Cpu): Uint8Array {
  const { byteOffset, length } = member<Uint8Array>(device(cpu, 'vga'), 'svga_memory', 'object');
  return new Uint8Array(cpu.wasm_memory.buffer, byteOffset, length);
}

export function device(cpu: V86Cpu, name: string): V86Device {
  return member(cpu.devices, name, 'object');
}

interface V86Stateful {
  get_state(): unknown[];
}

const LAST_VIRT_EIP = 18;
const VGA = 52;
const VGA_VIDEO_RAM = 39;
const PACKED_MEMORY = 77;
const PACKED_MEMORY_BITMAP = 78;

/** v86's own state of all devices, without RAM and video RAM. */
export function getV86State(cpu: V86Cpu): StateValue[] {
  cpu.pack_memory = () => ({ packed_memory: [], bitmap: { get_buffer: () => new ArrayBuffer(0) } });
  const state = cpu.get_state();
  state[PACKED_MEMORY] = null;
  state[PACKED_MEMORY_BITMAP] = null;
  state[LAST_VIRT_EIP] = -1; // a cache, which `set_state` drops: without it, equal machines have equal states
  const vga = (state[VGA] as V86Stateful).get_state();
  vga[VGA_VIDEO_RAM] = null;
  state[VGA] = vga;
  return Array.from(state, plain);
}

/** Sets what `getV86State()` got; touches no RAM. The JIT forgets all its code. */
export function setV86State(cpu: V86Cpu, state: StateValue[]): void {
  cpu.unpack_memory = () => {};
  const complete = [...state];
  complete[PACKED_MEMORY] = [];
  complete[PACKED_MEMORY_BITMAP] = new Uint8Array(0);
  const vga = [...(complete[VGA] as StateValue[])];
  vga[VGA_VIDEO_RAM] = new Uint8Array(0);
  complete[VGA] = vga;

  // v86 loses these three: it puts the saved array in place of the view, and the guest goes on with the old values.
  const { last_result, fpu_status_word, mxcsr } = cpu;
  cpu.set_state(complete);
  last_result[0] = cpu.last_result[0]!;
  fpu_status_word[0] = cpu.fpu_status_word[0]!;
  mxcsr[0] = cpu.mxcsr[0]!;
  Object.assign(cpu, { last_result, fpu_status_word, mxcsr });
}

/** A value of v86's state as a plain one: devices give their state, views of WebAssembly memory their content. */
function plain(value: unknown): StateValue {
  if (value === undefined || value === null) return null;
  if (typeof value === 'number' || typeof value === 'boolean' || typeof value === 'string') return value;
  if (Array.isArray(value)) return Array.from(value, plain);
  if (ArrayBuffer.isView(value)) return value as StateArray;
  if (typeof value === 'object') {
    if (isWasmView(value)) return value.slice();
    if ('get_state' in value) return plain((value as V86Stateful).get_state());
  }
  throw new TypeError(`v86 has a state this version of us cannot save: ${typeof value}`);
}

/** v86's views are proxies of an empty object: only asking for a member tells. */
const isWasmView = (value: object): value is StateArray => (value as StateArray).BYTES_PER_ELEMENT > 0;

function checkedLoop(loop: V86Loop): V86Loop {
  const { cpu } = loop;
  for (const name of ['run', 'stop', 'do_tick', 'next_tick', 'destroy', 'init'])
    member(loop, name, 'function');
  for (const name of ['get_state', 'set_state', 'pack_memory', 'unpack_memory', 'reboot_internal']) {
    member(cpu, name, 'function');
  }
  for (const name of ['mem8', 'wasm_memory', 'devices', 'bios', 'last_result', 'fpu_status_word', 'mxcsr']) {
    member(cpu, name, 'object');
  }
  return loop;
}

/** @throws {TypeError} if v86 has no such member: it is another version than the one this file was written for */
export function member<Value>(owner: object, name: string, type: 'function' | 'object' | 'number'): Value {
  const value: unknown = Reflect.get(owner, name);
  if (typeof value !== type || value === null) {
    throw new TypeError(`v86 ${v86Version()} has no ${type} "${name}": this version is not supported`);
  }
  return value as Value;
}
