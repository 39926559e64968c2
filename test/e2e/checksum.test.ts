/**
 * A network that flips bits, and migrations with checksums over it: no page of the guest is ever one that was changed.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { suite, type TestContext, test } from 'node:test';
import { OpenStreamDecoder } from '../../src/wire/open-stream-decoder.ts';
import { MIN_STREAM_BUFFER_BYTES } from '../../src/wire/stream-decoder.ts';
import { ByteChanger, type Change } from '../support/byte-changer.ts';
import { type Pair, POSTCOPY, proveMove, quitBoth, startPair } from '../support/pair.ts';
import { until } from '../support/until.ts';

const CHECKSUM = ['--capability', 'x-checksum=on'] as const;

/** The last byte of a page: of the first one, or of the first behind RUN. */
function aPage(phase: 'precopy' | 'postcopy'): Change {
  let isDue = phase === 'precopy';
  let pageAt = -1;
  const ignore = () => {};
  const decoder = new OpenStreamDecoder({
    buffer: new Uint8Array(MIN_STREAM_BUFFER_BYTES),
    handler: {
      configuration: ignore,
      recovery: ignore,
      sectionStart: ignore,
      sectionEnd: ignore,
      ramBlocks: ignore,
      page: (_block, _offset, _position, at) => {
        if (isDue) pageAt = at;
      },
      zeroPage: ignore,
      xbzrlePage: ignore,
      multifdFlush: ignore,
      ramSectionEnd: ignore,
      command: ({ type }) => {
        if (type === 'postcopy-run') isDue = true;
      },
      packageBytes: ignore,
      packageEnd: ignore,
      tailBytes: ignore,
      eof: ignore,
    },
  });
  return {
    how: 'flip',
    find: (bytes, at) => {
      for (let taken = 0; taken < bytes.length; ) {
        const free = decoder.free();
        const some = bytes.subarray(taken, taken + free.length);
        free.set(some);
        decoder.commit(some.length);
        decoder.run();
        taken += some.length;
      }
      const position = pageAt + 4095 - at;
      return pageAt >= 0 && position >= 0 && position < bytes.length ? position : -1;
    },
  };
}

async function startOver(t: TestContext, change: Change): Promise<Pair & { readonly network: ByteChanger }> {
  const pair = await startPair(t, {
    memoryMib: 32,
    rangeMib: 8,
    guest: 'random',
    incoming: 'unix:{folder}/in',
    args: [...POSTCOPY, ...CHECKSUM],
  });
  const network = await ByteChanger.start(t, join(pair.folder, 'net'), join(pair.folder, 'in'), change);
  return { ...pair, network };
}

suite('checksums', { timeout: 200_000 }, () => {
  test('a bit that is flipped in precopy fails the migration; the guest runs on at the source', async (t) => {
    const { source, destination, network } = await startOver(t, aPage('precopy'));
    await source.migrate(network.address);
    assert.deepEqual(await destination.untilExit(), { code: 1, signal: null });
    assert.ok(network.changedAt !== undefined);
    assert.match(
      destination.stderr,
      /What came as the page at 0x[0-9a-f]+ of "[^"]+" is not what was sent: its checksum/,
    );
    assert.match(destination.stderr, /\(stream byte \d+\)/);
    await source.untilStatus('failed');
    await source.untilMoreTicks();
    assert.equal(await source.runState(), 'running');
  });

  test('a bit that is flipped in postcopy pauses both sides, and a recovery fetches the page again', async (t) => {
    const pair = await startOver(t, aPage('postcopy'));
    const { source, destination, network, folder } = pair;
    await source.set({ 'max-bandwidth': 512 * 1024, 'max-postcopy-bandwidth': 0 });
    await source.migrate(network.address);
    await source.untilStatus('active');
    await source.qmp.execute('migrate-start-postcopy');
    await Promise.all([source.untilStatus('postcopy-paused'), destination.untilStatus('postcopy-paused')]);
    assert.ok(network.changedAt !== undefined);
    assert.match(
      (await destination.info())['error-desc'] ?? '',
      /is not what was sent: its checksum must be/,
    );
    assert.equal(await destination.runState(), 'running');

    await destination.qmp.execute('migrate-recover', { uri: `unix:${folder}/in2` });
    await source.qmp.execute('migrate', { uri: `unix:${folder}/in2`, resume: true });
    await Promise.all([source.untilStatus('completed'), destination.untilStatus('completed')]);
    await proveMove(pair);
    await quitBoth(pair);
  });

  test('without checksums the destination takes what came', async (t) => {
    const pair = await startPair(t, {
      memoryMib: 32,
      rangeMib: 8,
      guest: 'random',
      incoming: 'unix:{folder}/in',
    });
    const network = await ByteChanger.start(
      t,
      join(pair.folder, 'net'),
      join(pair.folder, 'in'),
      aPage('precopy'),
    );
    await pair.source.migrate(network.address);
    await until('the migration to end', async () => (await pair.source.info()).status === 'completed');
    assert.ok(network.changedAt !== undefined, 'the test before proves nothing otherwise');
  });
});
