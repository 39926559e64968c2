/**
 * A real Linux moves by postcopy while a shell counts on its console: no line is lost or doubled, and its clocks neither
 * jump nor go back.
 *
 * POSTCOPY_TEST_LINUX names the folder that .ci/linux-guest.sh has filled. Needs SeaBIOS.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { POSTCOPY } from '../support/pair.ts';
import { skipUnless } from '../support/requirements.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { until } from '../support/until.ts';
import { VmProcess } from '../support/vm-process.ts';

const LINUX = process.env['POSTCOPY_TEST_LINUX'] ?? '';
const BIOS = '/usr/share/seabios/bios-256k.bin';
const VGA_BIOS = '/usr/share/seabios/vgabios-stdvga.bin';
const BOOT_MS = 120_000;
/** A line is due every 100 ms of guest time; what the guest waits for pages, or for its host, comes on top. */
const MAX_STEP_SECONDS = 10;

interface Count {
  readonly count: number;
  /** Seconds since boot, by /proc/uptime. */
  readonly uptime: number;
  /** Seconds since 1970. */
  readonly date: number;
}

test('a Linux guest goes on after postcopy where it was, its clocks too', { timeout: 240_000 }, async (t) => {
  if (!needsLinux(t)) return;
  const folder = tempFolder(t);
  const firmware = ['--memory', '128M', '--bios', BIOS, '--vga-bios', VGA_BIOS];
  const kernel = ['--kernel', join(LINUX, 'vmlinuz'), '--initrd', join(LINUX, 'initrd.gz')];
  const machine = [...firmware, ...kernel, '--append', 'console=ttyS0', ...POSTCOPY];
  const source = await VmProcess.start(t, folder, 'source', machine);
  const incoming = ['--incoming', `unix:${folder}/migration`];
  const destination = await VmProcess.start(t, folder, 'destination', [...machine, ...incoming]);
  await untilCounts(source, 10);

  // Too slow for all of it to be there before the switch.
  await source.set({ 'max-bandwidth': 8 * 2 ** 20, 'x-postcopy-start-time': 300 });
  await source.migrate(`unix:${folder}/migration`);
  await source.untilStatus('completed');
  await destination.untilStatus('completed');
  await untilCounts(destination, 20);

  const { 'x-pages-demanded': demandedPages = 0 } = await destination.info();
  assert(demandedPages > 0, 'the guest waited for no page: that was no postcopy');
  const counts = countsIn(source.console + destination.console);
  for (const [index, count] of counts.entries()) {
    const last = counts[index - 1];
    if (last === undefined) continue;
    const where = `${JSON.stringify(last)} is followed by ${JSON.stringify(count)}`;
    assert.equal(count.count, last.count + 1, `Lines are lost or doubled: ${where}`);
    assert(count.uptime >= last.uptime, `Uptime went back: ${where}`);
    assert(count.uptime < last.uptime + MAX_STEP_SECONDS, `Uptime jumped: ${where}`);
    assert(count.date >= last.date, `The date went back: ${where}`);
    const driftSeconds = count.date - last.date - (count.uptime - last.uptime);
    assert(Math.abs(driftSeconds) < 2, `The two clocks came apart: ${where}`);
  }
});

function needsLinux(t: TestContext): boolean {
  const isThere = LINUX !== '' && existsSync(join(LINUX, 'vmlinuz')) && existsSync(join(LINUX, 'initrd.gz'));
  const why = 'set POSTCOPY_TEST_LINUX to a folder made by .ci/linux-guest.sh';
  return (
    skipUnless(t, 'Linux guest', isThere, why) &&
    skipUnless(t, 'SeaBIOS', existsSync(BIOS) && existsSync(VGA_BIOS), `no SeaBIOS at ${BIOS}`)
  );
}

async function untilCounts(vm: VmProcess, count: number): Promise<void> {
  await until(
    `${count} lines of the guest at ${vm.name}`,
    () => countsIn(vm.console).length >= count,
    () => vm.console.slice(-2000),
    BOOT_MS,
  );
}

/** The lines that are whole; a move may cut one in two, which the texts of both consoles together mend. */
function countsIn(text: string): Count[] {
  return [...text.matchAll(/^count=(\d+) uptime=([\d.]+) date=(\d+)\r?\n/gm)].map(
    ([, count, uptime, date]) => ({ count: Number(count), uptime: Number(uptime), date: Number(date) }),
  );
}
