/** Reads a stream from an input to its end, or to the first illegal byte of it. */
import { setTimeout as sleep } from 'node:timers/promises';
import { StreamInspector } from '../../inspect/stream-inspector.ts';
import type { StreamItem } from '../../inspect/stream-report.ts';
import { mappedRamBitmapBytes } from '../../wire/mapped-ram.ts';
import { TARGET_PAGE_BYTES } from '../../wire/ram-record.ts';
import type { StreamInput } from './stream-input.ts';

/** How often a file is looked at that may grow. */
const FOLLOW_MS = 100;

export interface InspectStreamOptions {
  /** The file still grows: wait for the end of the stream rather than of the file. */
  readonly isFollowing: boolean;
  readonly onItem?: (item: StreamItem) => void;
  /** Ends the reading; what was read is reported. */
  readonly signal: AbortSignal;
}

/** @returns what has been seen; the report of it says whether that is all and right */
export async function inspectStream(
  input: StreamInput,
  { isFollowing, onItem = () => {}, signal }: InspectStreamOptions,
): Promise<StreamInspector> {
  const inspector = new StreamInspector({ buffer: input.buffer, fileOffset: input.fileOffset, onItem });
  const { decoder } = inspector;
  // A peer may never close, and a file that grows has no end of its own. Of others the end is looked for bytes behind it.
  const endsWithStream = isFollowing || input.kind === 'socket';
  while (!signal.aborted && !inspector.hasFailed && !(inspector.isDone && endsWithStream)) {
    const skippedBytes = decoder.skippableBytes > 0 ? input.skip(decoder.skippableBytes) : 0;
    if (skippedBytes > 0) {
      inspector.skipped(skippedBytes);
      continue;
    }
    const free = decoder.free();
    const count = await input.read(free.byteOffset - input.buffer.byteOffset, free.length);
    if (count === undefined) continue;
    if (count > 0) inspector.received(count);
    else if (isFollowing) await sleep(FOLLOW_MS);
    else break;
  }
  if (!signal.aborted || inspector.isDone) inspector.end();
  else inspector.leave();
  countMappedPages(inspector, input);
  return inspector;
}

/** Which pages of a mapped-ram file have content is in its bitmaps, which are no part of the stream. */
function countMappedPages({ decoder, census }: StreamInspector, input: StreamInput): void {
  decoder.blocks.forEach(({ lengthBytes, mapped }, index) => {
    if (mapped === undefined) return;
    const bitmap = input.readAt(mapped.bitmapOffset, mappedRamBitmapBytes(lengthBytes));
    if (bitmap.length > 0) census.addMapped(index, bitmap, lengthBytes / TARGET_PAGE_BYTES);
  });
}
