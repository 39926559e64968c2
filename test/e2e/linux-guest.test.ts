/**
 * A real Linux moves by postcopy while a shell counts on its console: no line is lost or doubled, and its clocks neither
 * jump nor go back.
 *
 * POSTCOPY_TEST_LINUX names the folder that .ci/linux-guest.sh has filled. Needs SeaBIOS.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import {
  assertOneLinux,
  BOOT_MS,
  countsIn,
  LINUX_COMMAND_LINE,
  LINUX_INITRD,
  LINUX_KERNEL,
  needsLinux,
} from '../support/linux-counts.ts';
import { POSTCOPY } from '../support/pair.ts';
import { skipUnless } from '../support/requirements.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { until } from '../support/until.ts';
import { VmProcess } from '../support/vm-process.ts';

const BIOS = '/usr/share/seabios/bios-256k.bin';
const VGA_BIOS = '/usr/share/seabios/vgabios-stdvga.bin';

test('a Linux guest goes on after postcopy where it was, its clocks too', { timeout: 240_000 }, async (t) => {
  if (!needsLinux(t) || !needsFirmware(t)) return;
  const folder = tempFolder(t);
  const firmware = ['--memory', '128M', '--bios', BIOS, '--vga-bios', VGA_BIOS];
  const kernel = ['--kernel', LINUX_KERNEL, '--initrd', LINUX_INITRD, '--append', LINUX_COMMAND_LINE];
  const machine = [...firmware, ...kernel, ...POSTCOPY];
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
  assertOneLinux(source.console, destination.console);
});

function needsFirmware(t: TestContext): boolean {
  return skipUnless(t, 'SeaBIOS', existsSync(BIOS) && existsSync(VGA_BIOS), `no SeaBIOS at ${BIOS}`);
}

async function untilCounts(vm: VmProcess, count: number): Promise<void> {
  await until(
    `${count} lines of the guest at ${vm.name}`,
    () => countsIn(vm.console).length >= count,
    () => vm.console.slice(-2000),
    BOOT_MS,
  );
}
