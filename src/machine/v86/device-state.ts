/**
 * The state of all devices of a v86 machine as one tree: v86's own, and what v86 leaves out of it.
 *
 * v86's state was made for snapshots that are started again by a person. It forgets bytes that are under way in queues
 * and a few registers; a guest that is moved without notice would miss them.
 */

import type { StateArray, StateValue } from './state-codec.ts';
import { checkStateShape } from './state-shape.ts';
import { device, getV86State, member, setV86State, type V86ByteQueue, type V86Cpu } from './v86-internals.ts';

/** Scalars v86 leaves out, by device. The ACPI timer is there only if the machine has ACPI. */
const LEFT_OUT: readonly (readonly [device: string, names: readonly string[]])[] = [
  ['acpi', ['timer_last_value', 'timer_imprecision_offset', 'last_timer']],
  ['vga', ['svga_offset_x', 'svga_offset_y', 'svga_version']],
  ['ps2', ['next_byte_is_ready', 'next_byte_is_aux']],
];

/** Limit of one queue: the serial input of a guest that does not read it. */
export const MAX_QUEUED_BYTES = 64 * 1024;

/** v86 indexes its state by number: 52 is the VGA, 85 the IDE channels, 62 a firmware file that is being read. */
const RULES = {
  free: ['0.62', '0.85.*.*.16', '0.85.*.*.28', '2', '3', '4'],
  equal: { '0.0': 'memory size', '0.52.0': 'video memory size' },
};
/** What the VGA's registers can ask for: v86 makes a buffer of that many characters, and goes through it. */
const MAX_TEXT_COLUMNS = 256;
const MAX_TEXT_ROWS = 2048;
const MAX_FIRMWARE_FILE_BYTES = 64 * 1024;
const MAX_IDE_TRANSFER_BYTES = 64 * 1024 * 1024;

export function getDeviceState(cpu: V86Cpu): StateValue[] {
  return [getV86State(cpu), leftOutScalars(cpu), queuedSerial(cpu), ...ps2Queues(cpu).map(peekQueue)];
}

/**
 * @throws {RangeError} if the state is not one of a machine made like this one
 */
export function setDeviceState(cpu: V86Cpu, state: StateValue): void {
  checkStateShape(getDeviceState(cpu), state, RULES);
  const [v86State, scalars, serial, ...queues] = state as [StateValue[], StateValue[], ...StateValue[]];
  checkFirmwareFile(v86State[62]!);
  for (const channel of v86State[85] as StateValue[][]) {
    for (const drive of channel.slice(0, 2) as StateValue[][]) checkIdeTransfer(drive[16]!);
  }
  checkTextSize(v86State[52] as StateValue[]);
  const serialBytes = checkQueue(serial!);
  const queueBytes = queues.map(checkQueue);

  try {
    setV86State(cpu, v86State);
  } catch (cause) {
    throw new RangeError(`Cannot load device state: ${(cause as Error).message}`, { cause });
  }
  setLeftOutScalars(cpu, scalars);
  device(cpu, 'uart0')['input'] = [...serialBytes];
  ps2Queues(cpu).forEach((queue, index) => {
    for (const byte of queueBytes[index]!) queue.push(byte);
  });
}

function leftOutScalars(cpu: V86Cpu): StateValue[] {
  const scalars = LEFT_OUT.map(([name, fields]) => fields.map((field) => cpu.devices[name]?.[field] ?? null));
  return [cpu.fw_pointer, ...scalars.flat()] as StateValue[];
}

function setLeftOutScalars(cpu: V86Cpu, scalars: readonly StateValue[]): void {
  const [fw_pointer, ...rest] = scalars;
  cpu.fw_pointer = fw_pointer as number;
  for (const [name, fields] of LEFT_OUT) {
    for (const field of fields) {
      const value = rest.shift();
      const owner = cpu.devices[name];
      if (owner !== undefined) owner[field] = value;
    }
  }
}

function queuedSerial(cpu: V86Cpu): StateArray {
  return Uint8Array.from(member<number[]>(device(cpu, 'uart0'), 'input', 'object'));
}

function ps2Queues(cpu: V86Cpu): V86ByteQueue[] {
  const ps2 = device(cpu, 'ps2');
  return [member(ps2, 'kbd_buffer', 'object'), member(ps2, 'mouse_buffer', 'object')];
}

function peekQueue(queue: V86ByteQueue): StateArray {
  const bytes = Uint8Array.from({ length: queue.length }, () => queue.shift());
  for (const byte of bytes) queue.push(byte);
  return bytes;
}

function checkQueue(queue: StateValue): Uint8Array {
  if (queue instanceof Uint8Array && queue.length <= MAX_QUEUED_BYTES) return queue;
  throw new RangeError(`Cannot load device state: a queue must be at most ${MAX_QUEUED_BYTES} bytes`);
}

function checkTextSize(vga: StateValue[]): void {
  const [columns, rows] = [vga[4], vga[5]];
  const isSize = (value: unknown, max: number) =>
    Number.isInteger(value) && Number(value) >= 0 && Number(value) <= max;
  if (isSize(columns, MAX_TEXT_COLUMNS) && isSize(rows, MAX_TEXT_ROWS)) return;
  throw new RangeError(`Cannot load device state: text mode has ${columns} columns and ${rows} rows`);
}

/** A file of the firmware's configuration interface that the guest is reading: a list of bytes, or an array. */
function checkFirmwareFile(file: StateValue): void {
  const isFile =
    file instanceof Uint8Array || (Array.isArray(file) && file.every((byte) => typeof byte === 'number'));
  if (isFile && file.length <= MAX_FIRMWARE_FILE_BYTES) return;
  throw new RangeError('Cannot load device state: the firmware file is not one');
}

/** The buffer of a drive: v86 makes it longer when a command needs more, and reads it by words. */
function checkIdeTransfer(data: StateValue): void {
  const isBuffer = data instanceof Uint8Array && data.length % 4 === 0;
  if (isBuffer && data.length <= MAX_IDE_TRANSFER_BYTES) return;
  throw new RangeError('Cannot load device state: the buffer of a drive is not one');
}
