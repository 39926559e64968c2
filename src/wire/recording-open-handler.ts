/** Records what an open decoder tells, for tests. */
import type { OpenStreamHandler } from './open-stream-handler.ts';
import { TARGET_PAGE_BYTES } from './ram-record.ts';

/** Each call as an array of its name and arguments; contents as bytes, pieces that follow one another as one. */
export class RecordingOpenHandler implements OpenStreamHandler {
  readonly calls: unknown[][] = [];
  readonly #buffer: Uint8Array;

  constructor(buffer: Uint8Array) {
    this.#buffer = buffer;
  }

  configuration(...args: unknown[]): void {
    this.calls.push(['configuration', ...args]);
  }
  recovery(...args: unknown[]): void {
    this.calls.push(['recovery', ...args]);
  }
  sectionStart(...args: unknown[]): void {
    this.calls.push(['sectionStart', ...args]);
  }
  sectionEnd(...args: unknown[]): void {
    this.calls.push(['sectionEnd', ...args]);
  }
  ramBlocks(...args: unknown[]): void {
    this.calls.push(['ramBlocks', ...args]);
  }
  page(blockIndex: number, offset: number, position: number, at: number): void {
    const content = this.#buffer.slice(position, position + TARGET_PAGE_BYTES);
    this.calls.push(['page', blockIndex, offset, content, at]);
  }
  zeroPage(...args: unknown[]): void {
    this.calls.push(['zeroPage', ...args]);
  }
  xbzrlePage(blockIndex: number, offset: number, position: number, lengthBytes: number, at: number): void {
    const delta = this.#buffer.slice(position, position + lengthBytes);
    this.calls.push(['xbzrlePage', blockIndex, offset, delta, at]);
  }
  multifdFlush(...args: unknown[]): void {
    this.calls.push(['multifdFlush', ...args]);
  }
  ramSectionEnd(...args: unknown[]): void {
    this.calls.push(['ramSectionEnd', ...args]);
  }
  command(...args: unknown[]): void {
    this.calls.push(['command', ...args]);
  }
  packageBytes(position: number, lengthBytes: number, at: number): void {
    this.#piece('packageBytes', position, lengthBytes, at);
  }
  packageEnd(...args: unknown[]): void {
    this.calls.push(['packageEnd', ...args]);
  }
  tailBytes(position: number, lengthBytes: number, at: number): void {
    this.#piece('tailBytes', position, lengthBytes, at);
  }
  eof(...args: unknown[]): void {
    this.calls.push(['eof', ...args]);
  }

  #piece(name: string, position: number, lengthBytes: number, at: number): void {
    const bytes = this.#buffer.slice(position, position + lengthBytes);
    const last = this.calls.at(-1);
    const isNext = last?.[0] === name && (last[2] as number) + (last[1] as Uint8Array).length === at;
    if (isNext) last[1] = Uint8Array.from(Buffer.concat([last[1] as Uint8Array, bytes]));
    else this.calls.push([name, bytes, at]);
  }
}
