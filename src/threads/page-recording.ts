/**
 * Which pages were asked for, in the order they were, in memory that two threads share.
 *
 *   word 0       how many requests came
 *   word 1       how many runs follow
 *   word 2 + 3i  block, first page, page count of run i
 *
 * A request that begins where the last run ends makes that run longer. When the memory is full the rest is left out.
 */
import type { PageRun } from '../migration/push-order.ts';

const HEADER_WORDS = 2;
const RUN_WORDS = 3;
/** Enough for the working set of any guest: a million runs. */
const MAX_RUNS = 2 ** 20;

export class PageRecording {
  readonly words: Int32Array;

  /** @param words of a recording that another thread made */
  constructor(words: Int32Array) {
    this.words = words;
  }

  /** Room for the requests of a guest of so many pages. */
  static allocate(pageCount: number): PageRecording {
    const words = HEADER_WORDS + RUN_WORDS * Math.min(pageCount, MAX_RUNS);
    return new PageRecording(new Int32Array(new SharedArrayBuffer(words * 4)));
  }

  get requests(): number {
    return this.words[0] as number;
  }

  add({ block, firstPage, pageCount }: PageRun): void {
    const { words } = this;
    words[0]!++;
    const runs = words[1] as number;
    const last = HEADER_WORDS + (runs - 1) * RUN_WORDS;
    const isContinuation =
      runs > 0 &&
      words[last] === block &&
      (words[last + 1] as number) + (words[last + 2] as number) === firstPage;
    if (isContinuation) {
      words[last + 2]! += pageCount;
      return;
    }
    const next = last + RUN_WORDS;
    if (next + RUN_WORDS > words.length) return;
    words[next] = block;
    words[next + 1] = firstPage;
    words[next + 2] = pageCount;
    words[1] = runs + 1;
  }

  runs(): PageRun[] {
    return Array.from({ length: this.words[1] as number }, (_, index) => {
      const at = HEADER_WORDS + index * RUN_WORDS;
      const [block = 0, firstPage = 0, pageCount = 0] = this.words.subarray(at, at + RUN_WORDS);
      return { block, firstPage, pageCount };
    });
  }
}
