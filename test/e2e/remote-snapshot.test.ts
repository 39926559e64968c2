/**
 * A server and its clients in one process, over real sockets, around a snapshot that the test has written.
 */
import assert from 'node:assert/strict';
import { readFileSync, rmSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { signalEventfd } from '../../src/linux/poll.ts';
import { TARGET_PAGE_BYTES } from '../../src/memory/ram-block.ts';
import {
  openRemoteSnapshot,
  type RemoteSnapshot,
  type RemoteSnapshotOptions,
} from '../../src/restore/remote-snapshot.ts';
import { type SessionReport, SnapshotServer } from '../../src/restore/snapshot-server.ts';
import { openSnapshot } from '../../src/snapshot/open-snapshot.ts';
import { SnapshotWriter } from '../../src/snapshot/snapshot-writer.ts';
import { writeDeviceSection } from '../../src/wire/device-sections.ts';
import { encodeReqPages, encodeReqPagesId } from '../../src/wire/return-path.ts';
import { atEnd } from '../support/cleanup.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { inTime, until } from '../support/until.ts';

const PAGES = 3000;
const BLOCKS = [
  { idstr: 'pc.ram', lengthBytes: PAGES * TARGET_PAGE_BYTES, pageSizeBytes: TARGET_PAGE_BYTES },
  { idstr: 'pc.bios', lengthBytes: 64 * TARGET_PAGE_BYTES, pageSizeBytes: TARGET_PAGE_BYTES },
];
const UUID = Uint8Array.from({ length: 16 }, (_, index) => index);
/** Some pages are zero, in runs and alone. */
const hasContent = (page: number) => page % 7 !== 3 && (page < 500 || page > 900);
const CONTENT_PAGES = BLOCKS.reduce(
  (sum, { lengthBytes }) =>
    sum +
    Array.from({ length: lengthBytes / TARGET_PAGE_BYTES }, (_, page) => page).filter(hasContent).length,
  0,
);

function writeSnapshot(path: string, tint = 0): void {
  const devices = writeDeviceSection({
    ...{ sectionId: 9, idstr: 'timer', instanceId: 0, versionId: 1 },
    body: Uint8Array.of(1, 2, 3, tint),
  });
  const writer = new SnapshotWriter({
    path,
    machineType: 'pc-1',
    uuid: UUID,
    ramSectionId: 5,
    blocks: BLOCKS,
  });
  BLOCKS.forEach(({ lengthBytes }, block) => {
    for (let page = 0; page < lengthBytes / TARGET_PAGE_BYTES; page++) {
      if (hasContent(page)) writer.writePage(block, page, contentOf(block, page));
    }
  });
  writer.finish(devices);
}

function contentOf(block: number, page: number): Buffer {
  const content = Buffer.alloc(TARGET_PAGE_BYTES, (page % 255) + 1);
  content.writeUInt32LE(block, 0);
  content.writeUInt32LE(page, TARGET_PAGE_BYTES - 4);
  return content;
}

interface Rig {
  readonly folder: string;
  readonly server: SnapshotServer;
  readonly reports: SessionReport[];
  readonly messages: string[];
  open(options?: Partial<RemoteSnapshotOptions>): Promise<RemoteSnapshot>;
}

async function makeRig(t: TestContext): Promise<Rig> {
  const folder = tempFolder(t);
  const path = join(folder, 'vm.snap');
  writeSnapshot(path);
  const reports: SessionReport[] = [];
  const messages: string[] = [];
  const server = await startServer(t, path, 'tcp:127.0.0.1:0', reports);
  return {
    ...{ folder, server, reports, messages },
    open: (options) => openClient(t, server.address, folder, messages, options),
  };
}

async function startServer(
  t: TestContext,
  path: string,
  uri: string,
  reports: SessionReport[],
): Promise<SnapshotServer> {
  const snapshot = openSnapshot(path);
  atEnd(t, () => snapshot.close());
  const onReport = (report: SessionReport) => reports.push(report);
  const server = await SnapshotServer.start({ snapshot, uri, maxSessions: 8, onMessage: () => {}, onReport });
  atEnd(t, () => server.close());
  return server;
}

async function openClient(
  t: TestContext,
  uri: string,
  folder: string,
  messages: string[],
  options: Partial<RemoteSnapshotOptions> = {},
): Promise<RemoteSnapshot> {
  const remote = await openRemoteSnapshot({
    uri,
    cacheFolder: join(folder, 'cache'),
    maxBytesPerSecond: 0,
    usesOrder: true,
    reconnectForMs: 30_000,
    onMessage: (text) => messages.push(text),
    signal: new AbortController().signal,
    ...options,
  });
  atEnd(t, () => remote.close());
  return remote;
}

const complete = (remote: RemoteSnapshot) =>
  inTime('all memory', Promise.race([remote.complete, remote.failed]));

/** What the cache holds is the snapshot. */
function proveCache(remote: RemoteSnapshot): void {
  const file = readFileSync(remote.orderPath?.replace(/order$/, 'pages') ?? '');
  remote.blocks.forEach(({ lengthBytes, fileOffsetOf }, block) => {
    for (let page = 0; page < lengthBytes / TARGET_PAGE_BYTES; page++) {
      const at = fileOffsetOf(page);
      const expected = hasContent(page) ? contentOf(block, page) : Buffer.alloc(TARGET_PAGE_BYTES);
      assert.ok(file.subarray(at, at + TARGET_PAGE_BYTES).equals(expected), `block ${block} page ${page}`);
    }
  });
}

test('a snapshot is fetched whole, and only once for a host', async (t) => {
  const { reports, open } = await makeRig(t);
  const remote = await open();
  assert.equal(remote.machineType, 'pc-1');
  assert.deepEqual(Buffer.from(remote.uuid ?? []), Buffer.from(UUID));
  assert.equal(remote.ramSectionId, 5);
  assert.deepEqual(
    remote.blocks.map(({ idstr, lengthBytes }) => [idstr, lengthBytes]),
    BLOCKS.map(({ idstr, lengthBytes }) => [idstr, lengthBytes]),
  );
  assert.equal(remote.deviceSections.at(-6), 0);
  await complete(remote);
  proveCache(remote);
  const info = await remote.info();
  assert.equal(info?.['content-pages'], CONTENT_PAGES);
  assert.equal(info?.['read-ahead-pages'], CONTENT_PAGES);
  await remote.close();
  assert.equal(await remote.info(), undefined);
  const again = await open();
  await complete(again);
  assert.equal((await again.info())?.['cached-pages'], CONTENT_PAGES);
  await until('both sessions to end', () => reports.length === 2);
  assert.deepEqual(
    reports.map(({ outcome, ...report }) => [outcome, report['demanded-pages'] + report['read-ahead-pages']]),
    [
      ['served', CONTENT_PAGES],
      ['served', 0],
    ],
  );
});

test('clients that fetch at once ask for each page once, and each has all of them', async (t) => {
  const { reports, open } = await makeRig(t);
  const clients = await Promise.all([open(), open(), open()]);
  await Promise.all(clients.map(complete));
  for (const client of clients) {
    proveCache(client);
    const info = await client.info();
    const sum =
      (info?.['cached-pages'] ?? 0) + (info?.['shared-pages'] ?? 0) + (info?.['read-ahead-pages'] ?? 0);
    assert.equal(sum, CONTENT_PAGES);
  }
  await until('all sessions to end', () => reports.length === 3);
  const sent = reports.reduce(
    (sum, report) => sum + report['demanded-pages'] + report['read-ahead-pages'],
    0,
  );
  assert.equal(sent, CONTENT_PAGES);
});

test('a page that is needed comes though nothing is read ahead', async (t) => {
  const { open } = await makeRig(t);
  const remote = await open({ maxBytesPerSecond: 1 });
  const { demands, pages } = remote.fetching;
  const words = pages.availableWords[0] as Int32Array;
  const isThere = (page: number) => (((words[page >> 5] ?? 0) >>> (page & 31)) & 1) === 1;
  assert.equal(isThere(2000), false);
  demands.postMessage({ block: 0, page: 2000 });
  signalEventfd(pages.fetcherWakeFd);
  await until('the page', () => isThere(2000));
  const info = await remote.info();
  assert.equal(info?.['demanded-pages'], 1);
  assert.equal(info?.['latency-us']?.count, 1);
});

test('a server that is gone is found again, and asked for the rest', async (t) => {
  const { folder, server, reports, messages, open } = await makeRig(t);
  const remote = await open({ maxBytesPerSecond: 2_000_000 });
  await server.close();
  assert.equal(reports[0]?.outcome, 'ended-here');
  await until('the loss', () => messages.some((text) => /is lost: the server closed it|reset/.test(text)));
  await startServer(t, join(folder, 'vm.snap'), server.address, reports);
  await until('the return', () => messages.some((text) => /is there again/.test(text)));
  await complete(remote);
  proveCache(remote);
  assert.equal((await remote.info())?.sessions, 2);
});

test('a server that has another snapshot is refused, and one that does not return is given up', async (t) => {
  const { folder, server, open, reports } = await makeRig(t);
  const remote = await open({ maxBytesPerSecond: 1000 });
  const patient = await open({ maxBytesPerSecond: 1000, reconnectForMs: 300 });
  await server.close();
  await assert.rejects(
    inTime('the end', patient.failed),
    /was not there again within 300 ms: .*connection refused/,
  );
  rmSync(join(folder, 'vm.snap'));
  writeSnapshot(join(folder, 'vm.snap'), 1);
  await startServer(t, join(folder, 'vm.snap'), server.address, reports);
  await assert.rejects(inTime('the end', remote.failed), /The server has another snapshot now/);
});

/** A client that says what the test says. */
function stranger(t: TestContext, { server }: Rig): Socket {
  const socket = connect(Number(server.address.split(':').at(-1)), '127.0.0.1');
  socket.on('error', () => {}).resume();
  atEnd(t, () => socket.destroy());
  return socket;
}

test('hostile clients end their own sessions, and nobody else notices', async (t) => {
  const rig = await makeRig(t);
  const requests = (count: number) =>
    Buffer.concat(
      Array.from({ length: count }, (_, index) =>
        index === 0
          ? encodeReqPagesId(0, 2 * TARGET_PAGE_BYTES, 'pc.ram')
          : encodeReqPages(0, 2 * TARGET_PAGE_BYTES),
      ),
    );
  const attacks: readonly [string, Uint8Array, RegExp][] = [
    ['nonsense', Buffer.from('GET / HTTP/1.1\r\n\r\n'), /return path byte 0/],
    ['no such block', encodeReqPagesId(0, TARGET_PAGE_BYTES, 'nowhere'), /there is no such block/],
    ['beyond the block', encodeReqPagesId(2 ** 40, TARGET_PAGE_BYTES, 'pc.ram'), /the block ends at/],
    ['half a page', encodeReqPagesId(100, 200, 'pc.ram'), /must be a multiple of 4096/],
    ['no block', encodeReqPages(0, TARGET_PAGE_BYTES), /return path byte/],
    ['an early end', Buffer.from('00010004000000', 'hex'), /the destination closed it|reset/],
  ];
  for (const [what, bytes, why] of attacks) {
    const before = rig.reports.length;
    const socket = stranger(t, rig);
    socket.once('data', () => {
      socket.write(bytes);
      if (what === 'an early end') socket.end();
    });
    await until(`the end of the session: ${what}`, () => rig.reports.length > before);
    const report = rig.reports.at(-1);
    assert.equal(report?.outcome, 'lost', what);
    assert.match(report?.reason ?? '', why, what);
  }
  const greedy = stranger(t, rig);
  greedy.once('data', () => {
    greedy.write(requests(70_000));
  });
  const remote = await rig.open();
  await complete(remote);
  proveCache(remote);
});

test('waiting for a server that says nothing can be interrupted', async (t) => {
  const silent = createServer();
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
  const sockets: Socket[] = [];
  silent.on('connection', (socket) => sockets.push(socket));
  atEnd(t, () => {
    for (const socket of sockets) socket.destroy();
    silent.close();
  });
  const interrupt = new AbortController();
  const { port } = silent.address() as AddressInfo;
  const opening = openClient(t, `tcp:127.0.0.1:${port}`, tempFolder(t), [], { signal: interrupt.signal });
  opening.catch(() => {});
  await until('the connection', () => sockets.length === 1);
  interrupt.abort();
  await assert.rejects(inTime('the end', opening), /Interrupted/);
});
