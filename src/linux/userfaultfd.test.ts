import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Skippable, skipUnless } from '../../test/support/requirements.ts';
import { SyscallError } from './libc.ts';
import { mapAnonymous } from './memory.ts';
import { PagemapScanner, readPresence } from './pagemap.ts';
import { createEventfd, drainEventfd, PollEvent, PollSet, signalEventfd } from './poll.ts';
import { ioctlNumber, RegisterMode, UffdFeature, Userfaultfd } from './userfaultfd.ts';

const PAGE = 4096;

function openOrSkip(t: Skippable, features: number): Userfaultfd | undefined {
  try {
    return Userfaultfd.open(features);
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    skipUnless(t, `userfaultfd with features 0x${features.toString(16)}`, false, error.message);
    return undefined;
  }
}

test('ioctlNumber() gives the numbers of linux/userfaultfd.h and linux/fs.h', () => {
  assert.equal(ioctlNumber('read-write', 0xaa, 0x3f, 24), 0xc018aa3f); // UFFDIO_API
  assert.equal(ioctlNumber('read-write', 0xaa, 0x03, 40), 0xc028aa03); // UFFDIO_COPY
  assert.equal(ioctlNumber('read', 0xaa, 0x02, 16), 0x8010aa02); // UFFDIO_WAKE
  assert.equal(ioctlNumber('none', 0xaa, 0x00, 0), 0xaa00); // USERFAULTFD_IOC_NEW
  assert.equal(ioctlNumber('read-write', 0x66, 16, 96), 0xc0606610); // PAGEMAP_SCAN
});

test('Userfaultfd places a page once: copy() and zeroPage() say so when one is there', (t) => {
  const uffd = openOrSkip(t, 0);
  if (uffd === undefined) return;
  const memory = mapAnonymous(4 * PAGE);
  const source = mapAnonymous(PAGE);
  source.bytes.fill(0x5a);
  try {
    uffd.register(memory.address, 4 * PAGE, RegisterMode.MISSING);
    const base = Number(memory.address);
    assert.equal(uffd.copy(base, Number(source.address), PAGE), 'placed');
    assert.equal(uffd.copy(base, Number(source.address), PAGE), 'exists');
    assert.equal(uffd.zeroPage(base + PAGE, PAGE), 'placed');
    assert.equal(uffd.zeroPage(base, PAGE), 'exists');
    assert.equal(memory.bytes[PAGE - 1], 0x5a);
    assert.equal(memory.bytes[PAGE], 0);
    assert.throws(() => uffd.copy(base - PAGE, Number(source.address), PAGE), {
      code: 'ENOENT',
      syscall: 'ioctl',
    });
    uffd.unregister(memory.address, 4 * PAGE);
    assert.equal(memory.bytes[3 * PAGE], 0, 'an unregistered range is ordinary memory');
  } finally {
    uffd.close();
    uffd.close();
    memory.unmap();
    source.unmap();
  }
});

test('PagemapScanner reports every page once, then only what was written since', (t) => {
  const uffd = openOrSkip(t, UffdFeature.WP_ASYNC | UffdFeature.PAGEFAULT_FLAG_WP);
  if (uffd === undefined) return;
  const memory = mapAnonymous(64 * PAGE);
  const scanner = new PagemapScanner();
  const scan = () => {
    const regions: [number, number, boolean][] = [];
    scanner.takeWritten(memory.address, 64 * PAGE, (offset, lengthBytes, hasContent) =>
      regions.push([offset / PAGE, lengthBytes / PAGE, hasContent]),
    );
    return regions;
  };
  try {
    memory.bytes[5 * PAGE] = 1;
    assert.equal(memory.bytes[9 * PAGE], 0);
    uffd.register(memory.address, 64 * PAGE, RegisterMode.WP);
    const first = scan();
    assert.equal(
      first.reduce((pages, [, count]) => pages + count, 0),
      64,
    );
    assert.deepEqual(
      first.filter(([, , hasContent]) => hasContent),
      [[5, 1, true]],
    );
    assert.deepEqual(scan(), []);
    memory.bytes[5 * PAGE] = 2;
    memory.bytes[63 * PAGE] = 2;
    assert.deepEqual(scan(), [
      [5, 1, true],
      [63, 1, true],
    ]);
    assert.deepEqual(scan(), []);
  } finally {
    scanner.close();
    uffd.close();
    memory.unmap();
  }
});

test('readPresence() reports the pages that were touched', () => {
  const memory = mapAnonymous(32 * PAGE);
  for (const page of [0, 7, 8, 31]) memory.bytes[page * PAGE] = 1;
  const regions: [number, number][] = [];
  readPresence(memory.address, 32 * PAGE, (offset, lengthBytes) =>
    regions.push([offset / PAGE, lengthBytes / PAGE]),
  );
  memory.unmap();
  assert.deepEqual(regions, [
    [0, 1],
    [7, 2],
    [31, 1],
  ]);
});

test('PollSet.wait() wakes for an eventfd and says which slot', () => {
  const eventfd = createEventfd();
  const polls = new PollSet(2);
  polls.set(1, eventfd, PollEvent.IN);
  assert.equal(polls.wait(0), 0);
  signalEventfd(eventfd);
  assert.equal(polls.wait(-1), 1);
  assert.equal(polls.ready(0), 0);
  assert.equal(polls.ready(1), PollEvent.IN);
  drainEventfd(eventfd);
  drainEventfd(eventfd);
  assert.equal(polls.wait(0), 0);
  polls.close();
});
