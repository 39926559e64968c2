/**
 * What a look at the dirty pages costs: it must grow with what was written, not with what there is.
 */
import { type Mapping, mapAnonymous } from '../src/linux/memory.ts';
import { PageBitmap } from '../src/memory/page-bitmap.ts';
import { type RamBlock, TARGET_PAGE_BYTES } from '../src/memory/ram-block.ts';
import { AsyncDirtyTracker } from '../src/threads/dirty-trackers.ts';
import { type Benchmark, type Figures, MIB, percentiles, rounded } from './bench.ts';

export const cleanPass: Benchmark = {
  name: 'clean-pass',
  about: 'a dirty scan of 64 MiB against one of 1 GiB, with no, few and many pages written',
  async run(scale) {
    const [small, large] = scale === 'tiny' ? [MIB, 4 * MIB] : [64 * MIB, 1024 * MIB];
    const rounds = scale === 'tiny' ? 3 : 50;
    return { small: measure(small, rounds), large: measure(large, rounds) };
  },
};

function measure(lengthBytes: number, rounds: number): Figures {
  const memory = mapAnonymous(lengthBytes);
  memory.bytes.fill(1);
  const block: RamBlock = {
    idstr: 'bench',
    hostAddress: memory.address,
    lengthBytes,
    pageSizeBytes: TARGET_PAGE_BYTES,
  };
  const tracker = new AsyncDirtyTracker([block]);
  try {
    const dirty = new PageBitmap(lengthBytes / TARGET_PAGE_BYTES);
    tracker.start([dirty]);
    const figures: Record<string, Figures> = {};
    for (const dirtyPages of [0, 16, 256, 4096]) {
      figures[`dirty${dirtyPages}Pages`] = scans(memory, tracker, dirty, dirtyPages, rounds);
    }
    return { lengthBytes, ...figures };
  } finally {
    tracker.stop();
    memory.unmap();
  }
}

/** Pages are written far apart, none beside another, as far as there is room. */
function scans(
  memory: Mapping,
  tracker: AsyncDirtyTracker,
  dirty: PageBitmap,
  dirtyPages: number,
  rounds: number,
): Figures {
  const strideBytes = Math.max(
    TARGET_PAGE_BYTES,
    Math.floor(dirty.pageCount / dirtyPages) * TARGET_PAGE_BYTES,
  );
  const samplesUs: number[] = [];
  for (let round = 0; round < rounds; round++) {
    for (let page = 0; page < dirtyPages; page++) {
      memory.bytes[(page * strideBytes) % memory.bytes.length] = round;
    }
    dirty.clearRange(0, dirty.pageCount);
    const startedAtMs = performance.now();
    tracker.sync([dirty]);
    samplesUs.push((performance.now() - startedAtMs) * 1000);
  }
  return { foundPages: dirty.count(), medianUs: rounded(percentiles(samplesUs).p50) };
}
