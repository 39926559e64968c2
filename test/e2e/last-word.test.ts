/**
 * A destination that refuses a guest ends with it; what it said to the source last must not be lost in a connection that is
 * reset because the source was still sending.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { suite, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { v86Version } from '../../src/machine/v86/v86-internals.ts';
import { ByteWriter } from '../../src/wire/byte-writer.ts';
import { encodeCommand, MigrationCommand } from '../../src/wire/commands.ts';
import { encodePeerFeatures, PeerFeature } from '../../src/wire/peer-features.ts';
import { encodePong, encodeShut } from '../../src/wire/return-path.ts';
import { fileHeaderBytes, writeFileHeader } from '../../src/wire/sections.ts';
import { atEnd } from '../support/cleanup.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { inTime, until } from '../support/until.ts';
import { VmProcess } from '../support/vm-process.ts';

const MACHINE_TYPE = `v86-${v86Version()}`;
const NO_SECTION = Buffer.from('ff', 'hex');
/** Longer than a process that waits for nothing takes to close its connection. */
const MOMENT_MS = 100;

suite('last word', { timeout: 400_000 }, () => {
  test('a destination that refuses lets its source finish what it was sending', async (t) => {
    const args = ['--memory', '32M', '--incoming', 'tcp:127.0.0.1:0'];
    const destination = await VmProcess.start(t, tempFolder(t), 'destination', args);
    const port = Number((await destination.address()).split(':').at(-1));
    const source = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
    atEnd(t, () => source.destroy());
    const errors: Error[] = [];
    const heard: Buffer[] = [];
    const closed = new Promise<void>((resolve) => source.once('close', () => resolve()));
    source.on('error', (error) => errors.push(error)).on('data', (bytes) => heard.push(bytes));
    // What it can do comes first.
    const features = encodePong(encodePeerFeatures(PeerFeature.RUN_HANDSHAKE | PeerFeature.CHECKSUMS));
    const expected = Buffer.concat([features, encodeShut(1)]);
    await once(source, 'connect');
    const header = new ByteWriter(new Uint8Array(fileHeaderBytes(MACHINE_TYPE)));
    writeFileHeader(header, MACHINE_TYPE);
    source.write(
      Buffer.concat([header.subarray(), encodeCommand(MigrationCommand.OPEN_RETURN_PATH), NO_SECTION]),
    );
    await until(
      'the refusal',
      () => Buffer.concat(heard).length >= expected.length,
      () => destination.describe(),
    );
    await sleep(MOMENT_MS);
    source.write(Buffer.alloc(2 ** 20));
    source.end();

    assert.deepEqual(await inTime('the end', destination.untilExit()), { code: 1, signal: null });
    await inTime('the end of the connection', closed);
    assert.deepEqual(errors, []);
    assert.deepEqual(Buffer.concat(heard), expected);
  });
});
