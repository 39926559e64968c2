/**
 * Snapshots of a real QEMU, served by one process and restored by others that know only its address.
 */
import assert from 'node:assert/strict';
import { readdirSync, truncateSync, utimesSync, writeFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { suite, type TestContext, test } from 'node:test';
import type { SessionReport } from '../../src/restore/snapshot-server.ts';
import { atEnd } from '../support/cleanup.ts';
import { ServeProcess } from '../support/serve-process.ts';
import { mountSmallDisk } from '../support/small-disk.ts';
import { TcpProxy } from '../support/tcp-proxy.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { until } from '../support/until.ts';
import { runProgram } from '../support/vm-process.ts';
import { needsQemu, QEMU, type Qemu } from './qemu.ts';
import { proveRestored, quit, restore, type Saved, save } from './saved-guest.ts';

/** Of what the guest has not asked for: so little that most is still missing when a test does its deed. */
const SLOW = ['--max-bandwidth', '128K'];
const BIG = { guest: 'counter', memoryMib: 64, rangeMib: 24 } as const;

const NO_DEVICES = ['--', QEMU, '-display', 'none', '-nodefaults', '-accel', 'tcg'];

interface Served {
  readonly saved: Saved;
  readonly server: ServeProcess;
  /** Options of a restore that uses the cache of this test. */
  readonly args: readonly string[];
  readonly cache: string;
}

async function serve(t: TestContext, options: Parameters<typeof save>[1] = {}): Promise<Served> {
  const saved = await save(t, options);
  const server = await ServeProcess.start(t, saved.path);
  const cache = join(saved.folder, 'cache');
  return { saved, server, cache, args: ['--cache', cache] };
}

const pagesOf = ({ 'demanded-pages': demanded, 'read-ahead-pages': ahead }: SessionReport) =>
  demanded + ahead;

/** What a restore says it has got, in pages. */
function fetchedBy(qemu: Qemu): { content: number; server: number; host: number; shared: number } {
  const count = (pattern: RegExp) =>
    Number(pattern.exec(qemu.stderr)?.[1]?.replaceAll(' ', '') ?? Number.NaN);
  return {
    content: count(/pages +([\d ]+) with content/),
    server: count(/from the server ([\d ]+) in/),
    host: count(/from this host +([\d ]+), /),
    shared: count(/from this host +[\d ]+, ([\d ]+) of them/),
  };
}

const said = (qemu: Qemu, text: RegExp) =>
  until(
    `${qemu.name} to say ${text}`,
    () => text.test(qemu.stderr),
    () => qemu.describe(),
  );

/** A guest that has lost its memory is left for a look. */
async function quitLost(qemu: Qemu): Promise<void> {
  await said(qemu, /was not there again|another snapshot/);
  await qemu.qmp.execute('quit').catch(() => {});
  assert.deepEqual(await qemu.untilEnded(), { code: 1, signal: null });
}

const allHere = (qemu: Qemu) => said(qemu, /the guest\s+asked for/);

suite('restore from another host', { timeout: 400_000 }, () => {
  test('the guest goes on, and a second clone on that host asks for nothing', async (t) => {
    if (!needsQemu(t)) return;
    const { saved, server, args, cache } = await serve(t, { guest: 'random', memoryMib: 64, rangeMib: 24 });
    const first = await restore(t, saved, { from: server.address, args });
    await proveRestored(first, saved);
    await allHere(first);
    const [session] = (await server.untilSessions(1)) as [SessionReport];
    const { content, server: fetched } = fetchedBy(first);
    assert.equal(session.outcome, 'served');
    assert.equal(pagesOf(session), content, 'every page with content once, and no zero page');
    assert.equal(fetched, content);
    assert.equal(readdirSync(cache).filter((name) => /^[0-9a-f]{64}\.(pages|state)$/.test(name)).length, 2);
    await quit(first);

    const second = await restore(t, saved, { from: server.address, args, name: 'second' });
    await proveRestored(second, saved);
    await allHere(second);
    const [, other] = (await server.untilSessions(2)) as [SessionReport, SessionReport];
    assert.equal(pagesOf(other), 0);
    assert.deepEqual(fetchedBy(second), { content, server: 0, host: content, shared: 0 });
    await quit(second);
    server.kill('SIGTERM');
    assert.deepEqual(await server.untilExit(), { code: 0, signal: null });
  });

  test('three clones at once ask for each page once, together', async (t) => {
    if (!needsQemu(t)) return;
    const { saved, server, args } = await serve(t, BIG);
    const clones = await Promise.all(
      ['one', 'two', 'three'].map((name) => restore(t, saved, { from: server.address, args, name })),
    );
    await Promise.all(clones.map((clone) => proveRestored(clone, saved)));
    await Promise.all(clones.map(allHere));
    const sessions = await server.untilSessions(3);
    const counts = clones.map(fetchedBy);
    const content = counts[0]?.content ?? 0;
    assert.equal(
      sessions.reduce((sum, session) => sum + pagesOf(session), 0),
      content,
      JSON.stringify(counts),
    );
    for (const count of counts) assert.equal(count.server + count.host, content);
    await Promise.all(clones.map(quit));
  });

  test('pages cross the network when the guest needs them, while the rest is far from here', async (t) => {
    if (!needsQemu(t)) return;
    const { saved, server, args } = await serve(t, BIG);
    const qemu = await restore(t, saved, { from: server.address, args: [...args, ...SLOW] });
    await proveRestored(qemu, saved);
    await allHere(qemu);
    assert.match(qemu.stderr, /[1-9][\d ]* of them because the guest waited/);
    assert.match(qemu.stderr, /to fetch a page median/);
    const [session] = (await server.untilSessions(1)) as [SessionReport];
    assert(session['demanded-pages'] > 1000, JSON.stringify(session));
    await quit(qemu);
  });

  test('a server that is killed and started again during the load is found again', async (t) => {
    if (!needsQemu(t)) return;
    const { saved, server, args } = await serve(t, BIG);
    const { address } = server;
    const qemu = await restore(t, saved, { from: address, args: [...args, ...SLOW] });
    await until('the guest to arrive', async () => (await qemu.runState()) === 'paused');
    server.kill('SIGKILL');
    await said(qemu, /the connection to ".*" is lost: the server closed it|the peer reset it/);
    await qemu.qmp.execute('cont');
    const again = await ServeProcess.start(t, saved.path, { uri: address });
    await said(qemu, /the server is there again, after/);
    await qemu.qmp.execute('stop');
    await proveRestored(qemu, saved);
    await allHere(qemu);
    assert.match(qemu.stderr, /connections +2: 1 were lost/);
    const [session] = (await again.untilSessions(1)) as [SessionReport];
    const { content } = fetchedBy(qemu);
    assert(pagesOf(session) > 0 && pagesOf(session) < content, `${pagesOf(session)} of ${content}`);
    await quit(qemu);
  });

  test('a network that breaks again and again costs time, and no page', async (t) => {
    if (!needsQemu(t)) return;
    const { saved, server, args } = await serve(t, BIG);
    const proxy = await TcpProxy.start(t, Number(server.address.split(':').at(-1)));
    const qemu = await restore(t, saved, { from: proxy.uri, args: [...args, ...SLOW] });
    for (let break_ = 1; break_ <= 3; break_++) {
      await until(`session ${break_}`, () => (server.stderr.match(/has connected/g) ?? []).length >= break_);
      proxy.cut();
      await server.untilSessions(break_);
      await proxy.mend();
    }
    await proveRestored(qemu, saved);
    await allHere(qemu);
    await quit(qemu);
  });

  test('what a client had when it was killed, the next one has', async (t) => {
    if (!needsQemu(t)) return;
    const { saved, server, args } = await serve(t, BIG);
    const killed = await restore(t, saved, {
      from: server.address,
      args: [...args, ...SLOW],
      name: 'killed',
    });
    await until('the guest to arrive', async () => (await killed.runState()) === 'paused');
    killed.kill('SIGKILL');
    await killed.untilEnded();
    const [lost] = (await server.untilSessions(1)) as [SessionReport];
    assert.equal(lost.outcome, 'lost');
    assert(pagesOf(lost) > 0);

    const next = await restore(t, saved, { from: server.address, args, name: 'next' });
    await proveRestored(next, saved);
    await allHere(next);
    const { content, server: fetched, host } = fetchedBy(next);
    assert.equal(fetched + host, content);
    assert(host > 0 && host <= pagesOf(lost), `${host} of ${pagesOf(lost)} pages were kept`);
    await quit(next);
  });

  test('a clone goes on when the one that it shares with is killed', async (t) => {
    if (!needsQemu(t)) return;
    const { saved, server, args } = await serve(t, BIG);
    const slow = [...args, ...SLOW];
    const [one, other] = await Promise.all([
      restore(t, saved, { from: server.address, args: slow, name: 'one' }),
      restore(t, saved, { from: server.address, args: slow, name: 'other' }),
    ]);
    await until(
      'both guests',
      async () => (await one.runState()) === 'paused' && (await other.runState()) === 'paused',
    );
    one.kill('SIGKILL');
    await proveRestored(other, saved);
    await allHere(other);
    await quit(other);
  });

  test('an order recorded by --record is kept with the cache, and fetched first', async (t) => {
    if (!needsQemu(t)) return;
    const { saved, server, args, cache } = await serve(t, { guest: 'reader', memoryMib: 64, rangeMib: 8 });
    const first = await restore(t, saved, { from: server.address, args: [...args, '--record'] });
    await proveRestored(first, saved);
    await said(first, /the order of first touches is in ".*\/cache\/[0-9a-f]{64}\.order"/);
    await quit(first);
    for (const name of readdirSync(cache)) if (!name.endsWith('.order')) truncateSync(join(cache, name));
    const second = await restore(t, saved, { from: server.address, args, name: 'second' });
    await proveRestored(second, saved);
    await allHere(second);
    assert.match(second.stderr, /recorded order\s+[1-9][\d ]* of its [\d ]+ pages sent ahead/);
    assert.notEqual(fetchedBy(second).server, 0, 'the cache was emptied');
    await quit(second);
  });

  test('--full fetches everything before the guest runs', async (t) => {
    if (!needsQemu(t)) return;
    const { saved, server, args } = await serve(t);
    const qemu = await restore(t, saved, { from: server.address, args: [...args, '--full'] });
    await proveRestored(qemu, saved);
    await quit(qemu);
    const none = await runProgram(t, [
      ...['restore', '--full', '--no-cache', server.address, ...NO_DEVICES],
      ...['-machine', 'pc', '-m', '16M'],
    ]);
    assert.equal(none.code, 1);
    assert.match(none.stderr, /give --cache a folder with room, or leave out --full/);
  });

  test('--into feeds a QEMU of someone else over a unix socket', async (t) => {
    if (!needsQemu(t)) return;
    const saved = await save(t);
    const server = await ServeProcess.start(t, saved.path, { uri: `unix:${join(saved.folder, 'server')}` });
    const { Qemu } = await import('./qemu.ts');
    const uri = `unix:${join(saved.folder, 'migration')}`;
    const capabilities = { 'postcopy-ram': true };
    const qemu = await Qemu.start(t, saved.folder, { name: 'waits', incoming: uri, capabilities });
    const args = ['restore', server.address, '--no-cache', '--into', uri, '--json'];
    const { code, stdout, stderr } = await runProgram(t, args);
    assert.equal(code, 0, stderr);
    const { fetch } = JSON.parse(stdout);
    assert.equal(fetch['demanded-pages'] + fetch['read-ahead-pages'], fetch['content-pages']);
    await qemu.qmp.execute('cont');
    await qemu.untilMoreTicks(2);
    await qemu.proveOneEdge();
  });
});

suite('a cache that cannot be used does not harm the guest', { timeout: 400_000 }, () => {
  test('a folder that cannot be made: nothing is kept', async (t) => {
    if (!needsQemu(t)) return;
    const { saved, server } = await serve(t, BIG);
    const file = join(saved.folder, 'file');
    writeFileSync(file, '');
    const args = ['--cache', join(file, 'cache')];
    const qemu = await restore(t, saved, { from: server.address, args });
    await proveRestored(qemu, saved);
    assert.match(qemu.stderr, /The cache folder ".*" cannot be used: .*; what is fetched is not kept/);
    await quit(qemu);
  });

  test('a disk that becomes full', async (t) => {
    if (!needsQemu(t)) return;
    const { saved, server } = await serve(t, BIG);
    const disk = join(tempFolder(t), 'disk');
    if (!mountSmallDisk(t, disk, 8)) return;
    const args = ['--cache', join(disk, 'cache')];
    const qemu = await restore(t, saved, { from: server.address, args });
    await proveRestored(qemu, saved);
    await allHere(qemu);
    const [...told] = qemu.stderr.matchAll(/The cache takes no more: no space is left on the device/g);
    assert.equal(told.length, 1);
    await quit(qemu);
    const next = await restore(t, saved, { from: server.address, args, name: 'next' });
    await proveRestored(next, saved);
    await allHere(next);
    const { content, server: fetched, host } = fetchedBy(next);
    assert(host > 500 && fetched + host === content, JSON.stringify(fetchedBy(next)));
    await quit(next);
  });
});

suite('servers and clients that are refused or fail', { timeout: 400_000 }, () => {
  test('an address where nobody, or somebody else, answers', async (t) => {
    const nobody = await runProgram(t, ['restore', '--no-cache', 'tcp:127.0.0.1:1', ...NO_DEVICES]);
    assert.equal(nobody.code, 1);
    assert.match(nobody.stderr, /connection refused \(is "postcopy serve" running there\?\)/);

    for (const greeting of ['SSH-2.0-OpenSSH_9.2p1\r\n', '', 'QEVM\0\0\0\u0002']) {
      const sockets = new Set<Socket>();
      const stranger = createServer((socket) => {
        sockets.add(socket.on('error', () => {}));
        socket.end(greeting);
      });
      await new Promise<void>((resolve) => stranger.listen(0, '127.0.0.1', resolve));
      atEnd(t, () => stranger.close());
      const { port } = stranger.address() as { port: number };
      const { code, stderr } = await runProgram(t, [
        'restore',
        '--no-cache',
        `tcp:127.0.0.1:${port}`,
        ...NO_DEVICES,
      ]);
      assert.equal(code, 1);
      assert.match(
        stderr,
        greeting === ''
          ? /did not say what it serves: the server closed it/
          : /serves no snapshot that can be fetched: .*stream byte/,
      );
    }
  });

  test('another machine type is refused', async (t) => {
    if (!needsQemu(t)) return;
    const { server } = await serve(t);
    const { code, stderr } = await runProgram(t, [
      ...['restore', '--no-cache', server.address, ...NO_DEVICES],
      ...['-machine', 'q35', '-m', '16M'],
    ]);
    assert.equal(code, 1);
    assert.match(stderr, /machine type "pc-i440fx-[\d.]+" and this QEMU is "pc-q35-/);
    await server.untilSessions(1);
  });

  test('a server that comes back with another snapshot is refused', async (t) => {
    if (!needsQemu(t)) return;
    const { saved, server, args } = await serve(t, BIG);
    const other = await save(t);
    const qemu = await restore(t, saved, { from: server.address, args: [...args, ...SLOW] });
    await until('the guest to arrive', async () => (await qemu.runState()) === 'paused');
    server.kill('SIGKILL');
    await server.untilExit();
    await ServeProcess.start(t, other.path, { uri: server.address });
    await said(qemu, /The server has another snapshot now than the one this guest was started from/);
    await quitLost(qemu);
  });

  test('a server that does not come back is given up', async (t) => {
    if (!needsQemu(t)) return;
    const { saved, server, args } = await serve(t, BIG);
    const qemu = await restore(t, saved, {
      from: server.address,
      args: [...args, ...SLOW, '--reconnect-for', '1s'],
    });
    await until('the guest to arrive', async () => (await qemu.runState()) === 'paused');
    server.kill('SIGTERM');
    await said(qemu, /was not there again within 1 s: .*connection refused.*lacks at least [\d ]+ pages/);
    await quitLost(qemu);
  });

  test('a snapshot that changes under its server ends the sessions, not the server', async (t) => {
    if (!needsQemu(t)) return;
    const { saved, server, args } = await serve(t, BIG);
    const qemu = await restore(t, saved, {
      from: server.address,
      args: [...args, ...SLOW, '--reconnect-for', '1s'],
    });
    await until('the guest to arrive', async () => (await qemu.runState()) === 'paused');
    truncateSync(saved.path, 4096);
    const [session] = (await server.untilSessions(1)) as [SessionReport];
    assert.match(session.reason ?? '', /has changed since it was opened|it has become shorter/);
    await server.untilSaid(/was refused: ".*" has changed since it was opened; start this server again/);
    await quitLost(qemu);
    server.kill('SIGTERM');
    assert.equal((await server.untilExit()).code, 0);
  });

  test('more clients than --max-sessions are sent away, and those who say nonsense', async (t) => {
    if (!needsQemu(t)) return;
    const saved = await save(t);
    const server = await ServeProcess.start(t, saved.path, { args: ['--max-sessions', '1'] });
    const { connect } = await import('node:net');
    const port = Number(server.address.split(':').at(-1));
    const open = () => {
      const socket = connect(port, '127.0.0.1').on('error', () => {});
      socket.resume();
      atEnd(t, () => socket.destroy());
      return socket;
    };
    const one = open();
    await server.untilSaid(/has connected, 1 of at most 1/);
    open();
    await server.untilSaid(/was refused: there are 1 sessions already/);
    one.write('GET / HTTP/1.1\r\n\r\n');
    const [session] = (await server.untilSessions(1)) as [SessionReport];
    assert.equal(session.outcome, 'lost');
    assert.match(session.reason ?? '', /return path byte/);
    utimesSync(saved.path, 1, 1);
    open();
    await server.untilSaid(/has changed since it was opened/);
  });

  test('wrong usage is code 2', async (t) => {
    const usage = async (args: readonly string[], why: RegExp) => {
      const { code, stderr } = await runProgram(t, args);
      assert.equal(code, 2, stderr);
      assert.match(stderr, why);
    };
    await usage(['serve', 'x.snap'], /required option '--listen <uri>' not specified/);
    await usage(['serve', 'x.snap', '--listen', 'here'], /--listen: Bad migration URI/);
    await usage(['serve', 'x.snap', '--listen', 'exec:cat'], /--listen must be tcp:HOST:PORT or unix:PATH/);
    await usage(['serve', 'x.snap', '--listen', 'tcp::0', '--max-sessions', '0'], /--max-sessions must be/);
    await usage(['restore', 'x.snap', '--cache', '/tmp', '--', QEMU], /are for a snapshot on another host/);
    await usage(
      ['restore', 'tcp:h:1', '--reconnect-for', 'ever', '--', QEMU],
      /--reconnect-for: must be a time/,
    );
    await usage(['restore', 'tcp:h', '--', QEMU], /Bad migration URI/);
  });
});
