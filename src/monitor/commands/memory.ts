/**
 * Commands that look into the guest's memory.
 */
import * as v from 'valibot';
import type { Vm } from '../../vm/vm.ts';
import { defineCommand, NO_ARGUMENTS } from '../command.ts';
import { QmpError } from '../errors.ts';

const byteCount = v.pipe(
  v.number(),
  v.safeInteger('must be a whole number below 2^53'),
  v.minValue(0, 'must not be negative'),
);

const pmemsave = defineCommand({
  help: 'write SIZE bytes of guest-physical memory from VAL on to a file',
  qmp: 'pmemsave',
  hmp: {
    name: 'pmemsave',
    positional: [
      { name: 'val', kind: 'size' },
      { name: 'size', kind: 'size' },
      { name: 'filename', kind: 'string' },
    ],
  },
  schema: v.strictObject({ val: byteCount, size: byteCount, filename: v.string() }),
  async handler({ vm }, { val, size, filename }) {
    await vm.saveMemory(val, size, filename);
    return {};
  },
});

const queryRamblock = defineCommand({
  help: 'show the RAM blocks',
  qmp: 'x-query-ramblock',
  hmp: { name: 'info ramblock' },
  schema: NO_ARGUMENTS,
  handler: ({ vm }) => ({ 'human-readable-text': formatRamBlocks(vm.ramBlocks) }),
  text: (value) => value['human-readable-text'].trimEnd(),
});

const queryMigrateBitmap = defineCommand({
  help: 'show the migration bitmap of a RAM block, 64 pages a line (1: dirty or missing)',
  qmp: 'x-query-migrate-bitmap',
  hmp: {
    name: 'info migrate_bitmap',
    positional: [
      { name: 'block', kind: 'string', choices: ({ vm }) => vm.ramBlocks.map(({ idstr }) => idstr) },
    ],
  },
  schema: v.strictObject({ block: v.string() }),
  async handler({ vm }, { block }) {
    if (!vm.ramBlocks.some(({ idstr }) => idstr === block)) {
      const names = vm.ramBlocks.map(({ idstr }) => idstr).join(', ');
      throw new QmpError(`No RAM block is named "${block}"; there are: ${names}`);
    }
    return { 'human-readable-text': await vm.dumpBitmap(block) };
  },
  text: (value) => value['human-readable-text'].trimEnd(),
});

/** QEMU's table. A block's offset is where it would stand if the blocks followed each other. */
function formatRamBlocks(blocks: Vm['ramBlocks']): string {
  const row = (name: string, pageSize: string, numbers: readonly string[]) =>
    `${name.padStart(24)} ${pageSize.padStart(8)}  ${numbers.map((text) => text.padStart(18)).join(' ')}\n`;
  const hex = (bytes: number) => `0x${bytes.toString(16).padStart(16, '0')}`;
  let text = row('Block Name', 'PSize', ['Offset', 'Used', 'Total']);
  let offset = 0;
  for (const { idstr, lengthBytes, pageSizeBytes } of blocks) {
    text += row(idstr, `${pageSizeBytes / 1024} KiB`, [offset, lengthBytes, lengthBytes].map(hex));
    offset += lengthBytes;
  }
  return text;
}

export const MEMORY_COMMANDS = [pmemsave, queryRamblock, queryMigrateBitmap] as const;
