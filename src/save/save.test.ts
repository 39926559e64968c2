/**
 * A save of a source that the test plays: its monitor and its stream, so that it can end or fail wherever the test wants.
 */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { dirname, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { folderOf, header, ramEnd, ramStart, records, tail } from '../snapshot/example-file.ts';
import { openSnapshot } from '../snapshot/open-snapshot.ts';
import { encodeCommand, encodePing, MigrationCommand } from '../wire/commands.ts';
import { concatenate } from '../wire/example-stream.ts';
import { Save, type SaveOptions } from './save.ts';

const PONG_1 = '0002000400000001';
const SHUT_0 = '0001000400000000';
const SHUT_1 = '0001000400000001';

const openReturnPath = concatenate(encodeCommand(MigrationCommand.OPEN_RETURN_PATH), encodePing(1));
const ram = concatenate(ramStart, ramEnd(records([[0, 0, 1]])));
const withReturnPath = concatenate(header(), openReturnPath, ram, tail);
const withoutReturnPath = concatenate(header(), ram, tail);

class PlayedSource {
  runState = 'running';
  status: string | undefined;
  errorText: string | undefined;
  /** Commands in their order, with what they set. */
  readonly asked: string[] = [];
  /** What came on the return path, in hexadecimal. */
  answers = '';
  stream: Socket | undefined;
  /** It connects only when `connect` is called. */
  isSlow = false;
  /** Called when it is asked how its migration goes. */
  onLook = () => {};
  readonly folder: string;
  readonly #monitors: Socket[] = [];
  #uri = '';
  readonly #onMigrate: (source: PlayedSource) => void;

  static async start(
    t: TestContext,
    onMigrate: (source: PlayedSource) => void = () => {},
  ): Promise<PlayedSource> {
    const source = new PlayedSource(folderOf(t), onMigrate);
    const server = createServer((socket) => source.#serve(socket));
    await new Promise<void>((resolve) => server.listen(source.qmp, resolve));
    t.after(() => {
      source.end();
      server.close();
    });
    return source;
  }

  private constructor(folder: string, onMigrate: (source: PlayedSource) => void) {
    this.folder = folder;
    this.#onMigrate = onMigrate;
  }

  get qmp(): string {
    return join(this.folder, 'qmp');
  }

  /** Where the snapshot goes. */
  get path(): string {
    return join(this.folder, 'a.snap');
  }

  send(bytes: Uint8Array): void {
    this.stream?.write(bytes);
  }

  /** As if its process had ended. */
  end(): void {
    for (const socket of [...this.#monitors, this.stream]) socket?.destroy();
  }

  connect(): void {
    this.stream = connect(this.#uri, () => this.#onMigrate(this));
    this.stream.on('error', () => {});
    this.stream.on('data', (bytes) => (this.answers += bytes.toString('hex')));
  }

  #serve(socket: Socket): void {
    this.#monitors.push(socket);
    socket.on('error', () => {});
    socket.write(
      '{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 9}, "package": ""}, "capabilities": []}}\n',
    );
    socket.on('data', (chunk) => {
      for (const line of chunk.toString().trim().split('\n')) {
        const { execute, arguments: args, id } = JSON.parse(line);
        const answer = this.#answer(execute, args);
        socket.write(`${JSON.stringify({ ...answer, id })}\n`);
      }
    });
  }

  #answer(command: string, args: Record<string, unknown>): object {
    switch (command) {
      case 'query-status':
        return { return: { status: this.runState } };
      case 'query-migrate':
        this.onLook();
        return { return: { status: this.status, 'error-desc': this.errorText } };
      case 'query-migrate-capabilities':
        return {
          return: ['return-path', 'background-snapshot'].map((capability) => ({ capability, state: false })),
        };
      case 'query-migrate-parameters':
        return { return: { 'max-bandwidth': 5 } };
      case 'qmp_capabilities':
        return { return: {} };
      case 'qom-get':
        return { error: { class: 'GenericError', desc: 'no such property' } };
    }
    this.asked.push(command === 'migrate' ? command : `${command} ${JSON.stringify(args)}`);
    if (command === 'migrate') {
      this.status = 'active';
      this.#uri = String(args['uri']).replace('unix:', '');
      if (!this.isSlow) this.connect();
    }
    if (command === 'migrate_cancel') {
      this.status = 'cancelled';
      this.stream?.destroy();
    }
    if (command === 'cont') this.runState = 'running';
    return { return: {} };
  }
}

function run(source: PlayedSource, options: Partial<SaveOptions> = {}) {
  return new Save({
    ...{ qmp: source.qmp, path: source.path, overwrite: false, isBackground: false, afterwards: 'stay' },
    ...{ maxBytesPerSecond: 0, downtimeLimitMs: undefined, socket: { via: undefined, connect: undefined } },
    ...{ onProgress: () => {}, signal: new AbortController().signal },
    ...options,
  }).run();
}

/** What the source does when it hears something on its return path. */
function onAnswer(source: PlayedSource, answer: string, action: () => void): void {
  source.stream?.on('data', () => {
    if (source.answers.endsWith(answer)) action();
  });
}

const SET = [
  'migrate-set-capabilities {"capabilities":[{"capability":"return-path","state":true}]}',
  'migrate-set-parameters {"max-bandwidth":0}',
];
const GIVEN_BACK = [
  'migrate-set-capabilities {"capabilities":[{"capability":"return-path","state":false}]}',
  'migrate-set-parameters {"max-bandwidth":5}',
];

test('Save tells the source that it may end when the file is there, and not before', async (t) => {
  let wasThere: boolean | undefined;
  const source = await PlayedSource.start(t, (it) => {
    it.send(withReturnPath);
    it.runState = 'finish-migrate';
    onAnswer(it, SHUT_0, () => {
      wasThere = existsSync(it.path);
      it.status = 'completed';
      it.runState = 'postmigrate';
      it.stream?.end();
    });
  });
  const report = await run(source, { afterwards: 'run' });
  assert.equal(wasThere, true);
  assert.equal(source.answers, PONG_1 + SHUT_0);
  assert.equal(report.guest, 'running');
  assert.equal(report['content-bytes'], 4096);
  assert.deepEqual(source.asked, [...SET, 'migrate', 'cont {}', ...GIVEN_BACK]);
  openSnapshot(source.path).close();
});

test('Save of a source without a return path waits for its word', async (t) => {
  const source = await PlayedSource.start(t, (it) => {
    it.stream?.end(withoutReturnPath);
    setTimeout(() => (it.status = 'completed'), 50);
  });
  const report = await run(source);
  assert.equal(report.guest, 'running');
  assert.deepEqual(report.notes, ['the guest runs on: its migration is "completed"']);
  openSnapshot(source.path).close();
});

test('Save leaves no file of a source that has sent everything and then fails', async (t) => {
  const source = await PlayedSource.start(t, (it) => {
    it.runState = 'postmigrate';
    it.status = 'failed';
    it.errorText = 'out of luck';
    it.stream?.end(withoutReturnPath);
  });
  const failure = {
    name: 'SaveError',
    message: 'QEMU has given the migration up: out of luck. The guest runs on',
  };
  await assert.rejects(run(source), failure);
  assert.deepEqual(readdirSync(source.folder), ['qmp']);
  assert.deepEqual(source.asked, [...SET, 'migrate', 'cont {}', ...GIVEN_BACK]);
});

test('Save makes the source go on when the name is taken at the end', async (t) => {
  const source = await PlayedSource.start(t, (it) => {
    writeFileSync(it.path, 'of somebody else');
    it.send(withReturnPath);
    it.runState = 'finish-migrate';
    onAnswer(it, SHUT_1, () => {
      it.status = 'failed';
      it.runState = 'running';
      it.stream?.end();
    });
  });
  await assert.rejects(run(source), /there is a file of that name already\. The guest runs on$/);
  assert.equal(source.answers, PONG_1 + SHUT_1);
  assert.equal(readFileSync(source.path, 'utf8'), 'of somebody else');
  assert.deepEqual(readdirSync(source.folder).sort(), ['a.snap', 'qmp']);
});

test('Save says that the snapshot is whole when the source ends right behind it', async (t) => {
  const source = await PlayedSource.start(t, (it) => {
    it.send(withReturnPath);
    onAnswer(it, SHUT_0, () => it.end());
  });
  await assert.rejects(run(source, { afterwards: 'run' }), {
    name: 'SaveError',
    message: /^The snapshot ".*a\.snap" is whole, but then: .*the monitor .* has closed its connection$/,
  });
  openSnapshot(source.path).close();
});

test('Save keeps a snapshot that was whole before it was interrupted', async (t) => {
  const abort = new AbortController();
  const source = await PlayedSource.start(t, (it) => {
    it.send(withReturnPath);
    onAnswer(it, SHUT_0, () => abort.abort());
  });
  const report = await run(source, { signal: abort.signal });
  assert.deepEqual(report.notes, ['the guest runs on: its migration is "cancelled"']);
  openSnapshot(source.path).close();
});

test('Save in the background waits for a source that connects after the interrupt, and lets it come to its end', async (t) => {
  const abort = new AbortController();
  let hasSentAll = false;
  const source = await PlayedSource.start(t, (it) => {
    it.stream?.end(withoutReturnPath, () => {
      hasSentAll = true;
      it.status = 'completed';
    });
  });
  source.isSlow = true;
  source.onLook = () => {
    if (source.status !== 'active') return;
    if (abort.signal.aborted && source.stream === undefined) source.connect();
    abort.abort();
  };
  await assert.rejects(
    run(source, { isBackground: true, signal: abort.signal }),
    /^SaveError: Interrupted\./,
  );
  assert.equal(hasSentAll, true);
  assert.deepEqual(readdirSync(source.folder), ['qmp']);
});

for (const [what, bytes] of [
  ['before its first byte', new Uint8Array()],
  ['in RAM', withReturnPath.subarray(0, header().length + openReturnPath.length + ramStart.length + 500)],
  ['in its devices', withReturnPath.subarray(0, -tail.length + 10)],
  ['in its description', withReturnPath.subarray(0, -1)],
] as const) {
  test(`Save leaves no file of a source that ends ${what}`, async (t) => {
    const source = await PlayedSource.start(t, (it) => {
      it.stream?.write(bytes, () => it.end());
    });
    await assert.rejects(run(source), {
      name: 'SaveError',
      message: /^The connection to QEMU is lost: .*\. QEMU has closed its monitor: it has ended/,
    });
    assert.deepEqual(readdirSync(dirname(source.path)), ['qmp']);
  });
}
