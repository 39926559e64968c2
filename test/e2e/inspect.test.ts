/** `postcopy inspect` as a program. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { appendFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { suite, type TestContext, test } from 'node:test';
import type { StreamReport } from '../../src/inspect/stream-report.ts';
import { postcopyStream, precopyStream } from '../../src/wire/example-stream.ts';
import { encodeVmDescription } from '../../src/wire/vm-description.ts';
import { startSource } from '../support/pair.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { inTime, until } from '../support/until.ts';
import { spawnProgram } from '../support/vm-process.ts';

class Inspect {
  stdout = '';
  stderr = '';
  readonly child: ReturnType<typeof spawnProgram>;

  constructor(t: TestContext, args: readonly string[], stdin?: Uint8Array) {
    this.child = spawnProgram(t, ['inspect', ...args]);
    this.child.stdin?.end(stdin);
    this.child.stdout?.on('data', (bytes) => (this.stdout += bytes));
    this.child.stderr?.on('data', (bytes) => (this.stderr += bytes));
  }

  async code(): Promise<number | null> {
    return (await inTime('the end of inspect', this.child.exit, () => this.stderr)).code;
  }

  get report(): StreamReport {
    return JSON.parse(this.stdout) as StreamReport;
  }
}

async function inspect(t: TestContext, args: readonly string[], stdin?: Uint8Array) {
  const run = new Inspect(t, args, stdin);
  return { code: await run.code(), run };
}

suite('postcopy inspect', { timeout: 400_000 }, () => {
  test('reads a stream of ours, and tells its devices apart', async (t) => {
    const folder = tempFolder(t);
    const path = join(folder, 'vm.stream');
    const source = await startSource(t, folder, { memoryMib: 32, rangeMib: 4 });
    await source.migrate(`file:${path}`);
    await source.untilStatus('completed');
    const { code, run } = await inspect(t, [path, '--json']);
    assert.equal(code, 0, run.stderr);
    const { report } = run;
    assert.equal(report.isComplete, true);
    assert.deepEqual(
      report.devices.map(({ idstr }) => idstr),
      ['globalstate', 'v86'],
    );
    const pages = report.blocks.reduce((sum, { pages: { normal, zero } }) => sum + normal + zero, 0);
    assert(pages >= (32 * 2 ** 20) / 4096);
    assert.equal(report.bytes, readFileSync(path).length);

    const text = await inspect(t, [path]);
    assert.equal(text.code, 0);
    assert.match(text.run.stdout, /precopy stream of .*, complete\n(.*\n)*RAM block/);
  });

  test('reads a file behind an offset, standard input, and the output of a command', async (t) => {
    const folder = tempFolder(t);
    const path = join(folder, 'stream');
    writeFileSync(path, Buffer.concat([Buffer.alloc(100), postcopyStream]));
    for (const { args, stdin } of [
      { args: [`file:${path},offset=100`] },
      { args: ['-'], stdin: postcopyStream },
      { args: [`exec:tail -c +101 ${path}`] },
    ]) {
      const { code, run } = await inspect(t, ['--json', '--', ...args], stdin);
      assert.equal(code, 0, run.stderr);
      assert.equal(run.report.kind, 'postcopy');
      assert.equal(run.report.bytes, postcopyStream.length);
    }
  });

  test('says where a stream is damaged, and shows what came before', async (t) => {
    const path = join(tempFolder(t), 'damaged');
    const at = precopyStream.length - 400;
    const damaged = precopyStream.slice();
    const end = Buffer.from(precopyStream).lastIndexOf(Uint8Array.of(3, 0, 0, 0, 2));
    damaged[end] = 0x55;
    writeFileSync(path, damaged);
    const { code, run } = await inspect(t, [path]);
    assert.equal(code, 1);
    assert.equal(
      run.stderr,
      `postcopy: ${path} is damaged: the first illegal byte is 0x${end.toString(16)} (${end}), in the type of a section: Unknown section type 0x55\n`,
    );
    assert.match(run.stdout, /RAM PART × 2/);

    writeFileSync(path, precopyStream.subarray(0, at));
    const cut = await inspect(t, ['--json', path]);
    assert.equal(cut.code, 1);
    assert.equal(cut.run.report.error?.code, 'TRUNCATED');
    assert.equal(cut.run.report.error?.at, at);
  });

  test('says what it cannot read', async (t) => {
    const folder = tempFolder(t);
    const missing = await inspect(t, [join(folder, 'nothing')]);
    assert.equal(missing.code, 1);
    assert.match(missing.run.stderr, /^postcopy: Failed to open "file:.*no such file or directory\n$/);
    const bad = await inspect(t, ['tcp:1']);
    assert.equal(bad.code, 2);
    assert.equal((await inspect(t, [])).code, 2);
    const other = join(folder, 'other');
    writeFileSync(other, '#!/bin/sh\n');
    const none = await inspect(t, [other]);
    assert.equal(none.code, 1);
    assert.match(
      none.run.stderr,
      /other is no migration stream: byte 0x0 \(0\): Not a migration stream: byte must be 0x51/,
    );
  });

  test('waits for a source, as a destination would', async (t) => {
    const path = join(tempFolder(t), 's');
    const run = new Inspect(t, ['--json', `unix:${path}`]);
    await until('the socket', () => existsSync(path));
    const socket = createConnection(path);
    await once(socket, 'connect');
    socket.end(postcopyStream);
    assert.equal(await run.code(), 0);
    assert.match(run.stderr, /waiting for a source at unix:/);
    assert.equal(run.report.isComplete, true);
    assert(!existsSync(path));
  });

  test('follows a file that grows until the stream in it ends, or until ^C', async (t) => {
    const path = join(tempFolder(t), 'growing');
    writeFileSync(path, precopyStream.subarray(0, 3000));
    const stopped = new Inspect(t, ['--follow', path]);
    await until('its first line', () => /RAM START/.test(stopped.stdout));
    stopped.child.kill('SIGINT');
    assert.equal(await stopped.code(), 130);
    assert.match(stopped.stdout, /not complete/);

    const run = new Inspect(t, ['--follow', path]);
    await until('its first line', () => /RAM START/.test(run.stdout));
    const described = encodeVmDescription(4096, [
      { name: 'example', instanceId: 0, version: 1, fields: [{ name: 'd', type: 'buffer', sizeBytes: 7 }] },
      {
        name: 'globalstate',
        instanceId: 0,
        version: 1,
        fields: [{ name: 'd', type: 'buffer', sizeBytes: 104 }],
      },
    ]);
    appendFileSync(path, precopyStream.subarray(3000));
    appendFileSync(path, described.subarray(0, 20));
    appendFileSync(path, described.subarray(20));
    assert.equal(await run.code(), 0, run.stderr);
    assert.match(run.stdout, /complete\n/);
    assert.match(run.stdout, /globalstate\s+0\s+1/);
  });
});
