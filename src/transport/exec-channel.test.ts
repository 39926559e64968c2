import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { connectChannel } from './connect.ts';
import { listenChannel } from './listen.ts';

test('finished() of an exec channel resolves when the command has done its work', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'postcopy-'));
  try {
    const source = await connectChannel(
      `exec:cat > '${join(folder, 'out')}'; echo end >> '${join(folder, 'out')}'`,
    );
    writeSync(source.fd, 'stream\n');
    source.close();
    await source.finished();
    assert.equal(readFileSync(join(folder, 'out'), 'utf8'), 'stream\nend\n');
  } finally {
    rmSync(folder, { recursive: true });
  }
});

const FAILURES: readonly (readonly [command: string, ending: string])[] = [
  ['exit 3', 'exited with code 3'],
  ['/no/such/command 2>/dev/null', 'exited with code 127'],
  ['kill -KILL $$', 'was ended by SIGKILL'],
];

for (const [command, ending] of FAILURES) {
  test(`finished() of an exec channel rejects when the command ${ending}, at both ends`, async () => {
    const source = await connectChannel(`exec:${command}`);
    const listener = await listenChannel(`exec:${command}`);
    const destination = await listener.accept();
    listener.close();
    for (const channel of [source, destination]) {
      channel.close();
      await assert.rejects(channel.finished(), {
        name: 'TransportError',
        code: 'COMMAND_FAILED',
        uri: `exec:${command}`,
        message: `Command "${command}" ${ending}`,
      });
    }
  });
}

test('finished() of an exec channel gives the outcome again when asked again', async () => {
  const source = await connectChannel('exec:exit 1');
  source.close();
  await assert.rejects(source.finished(), { code: 'COMMAND_FAILED' });
  await assert.rejects(source.finished(), { code: 'COMMAND_FAILED' });
});

test('close() of a destination ends a command that goes on writing', async () => {
  const listener = await listenChannel('exec:exec yes');
  listener.close();
  const again = await listenChannel('exec:exec yes');
  const destination = await again.accept();
  destination.close();
  await assert.rejects(destination.finished(), { message: 'Command "exec yes" was ended by SIGPIPE' });
});
