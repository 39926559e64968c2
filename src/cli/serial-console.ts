/**
 * Where the guest's serial console goes: `stdio`, `stderr`, `null`, `file:PATH`. Only `stdio` also takes input.
 */
import { closeSync, openSync, writeSync } from 'node:fs';
import type { Vm } from '../vm/vm.ts';

export type SerialTarget =
  | { readonly kind: 'stdio' | 'stderr' | 'null' }
  | { readonly kind: 'file'; readonly path: string };

const CTRL_C = 0x03;

/** @throws {RangeError} if the text is no target */
export function parseSerialTarget(text: string): SerialTarget {
  if (text === 'stdio' || text === 'stderr' || text === 'null') return { kind: text };
  const path = text.startsWith('file:') ? text.slice('file:'.length) : '';
  if (path === '')
    throw new RangeError(`Serial console must be stdio, stderr, null or file:PATH, got "${text}"`);
  return { kind: 'file', path };
}

/**
 * Connects a machine's serial console.
 *
 * @param interrupt Ctrl-C was typed at a terminal, which belongs to the guest and sends no signal by itself
 * @returns a function that disconnects it
 */
export function connectSerialConsole(vm: Vm, target: SerialTarget, interrupt: () => void): () => void {
  if (target.kind === 'null') return () => {};
  if (target.kind === 'file') return connectFile(vm, target.path);
  const output = target.kind === 'stdio' ? process.stdout : process.stderr;
  const onSerial = (bytes: Uint8Array) => {
    if (output.writable) output.write(bytes);
  };
  // A reader of the console that has gone is no reason to end the machine.
  output.on('error', () => {});
  vm.on('serial', onSerial);
  const disconnectInput = target.kind === 'stdio' ? connectInput(vm, interrupt) : () => {};
  return () => {
    vm.off('serial', onSerial);
    disconnectInput();
  };
}

function connectInput(vm: Vm, interrupt: () => void): () => void {
  const { stdin } = process;
  const isTerminal = stdin.isTTY === true;
  const onData = (bytes: Buffer) => {
    if (isTerminal && bytes.includes(CTRL_C)) interrupt();
    else vm.sendSerial(bytes);
  };
  if (isTerminal) stdin.setRawMode(true);
  stdin.on('data', onData);
  stdin.on('error', () => {}); // a closed standard input is a console at which nobody types
  return () => {
    stdin.off('data', onData);
    stdin.pause();
    if (isTerminal) stdin.setRawMode(false);
  };
}

function connectFile(vm: Vm, path: string): () => void {
  const fd = openSync(path, 'w');
  const onSerial = (bytes: Uint8Array) => writeSync(fd, bytes);
  vm.on('serial', onSerial);
  return () => {
    vm.off('serial', onSerial);
    closeSync(fd);
  };
}
