/**
 * What a person sees while a migration runs: a line for each thing that happens, and at a terminal one below them that shows
 * how far it is, once a second.
 */
import type { MigrationListener } from '../../drive/migration-driver.ts';
import { bytesPerSecond } from '../../drive/postcopy-switch.ts';
import type { MigrateInfo } from '../../drive/watched-machine.ts';
import { formatBytes, formatBytesPerSecond } from '../../telemetry/format.ts';

const PROGRESS_MS = 1000;
const CLEAR_LINE = '\r\x1b[K';

export interface TextOutput {
  write(text: string): unknown;
  readonly isTTY?: boolean;
  readonly columns?: number;
}

export class MigrationProgress implements MigrationListener {
  readonly #output: TextOutput;
  #isLineOpen = false;
  #nextAtMs = 0;

  constructor(output: TextOutput) {
    this.#output = output;
  }

  onLine(who: string, text: string, atMs: number): void {
    this.end();
    this.#output.write(`${formatTime(atMs)}  ${who.padEnd(12)} ${text}\n`);
  }

  onProgress(status: string, info: MigrateInfo, atMs: number): void {
    if (this.#output.isTTY !== true || atMs < this.#nextAtMs) return;
    this.#nextAtMs = atMs + PROGRESS_MS;
    const width = (this.#output.columns || 80) - 1;
    this.#output.write(CLEAR_LINE + `${formatTime(atMs)}  ${formatProgress(status, info)}`.slice(0, width));
    this.#isLineOpen = true;
  }

  /** Takes the line that shows how far it is away. */
  end(): void {
    if (this.#isLineOpen) this.#output.write(CLEAR_LINE);
    this.#isLineOpen = false;
  }
}

/** e.g. `active  pass 3, 12 MiB of 256 MiB remain, 32 MiB/s, the guest dirties 40 MiB/s` */
export function formatProgress(status: string, { ram }: MigrateInfo): string {
  if (ram === undefined) return status;
  const parts = [
    `pass ${ram['dirty-sync-count'] ?? 0}`,
    `${formatBytes(ram.remaining)} of ${formatBytes(ram.total)} remain`,
    formatBytesPerSecond(bytesPerSecond(ram)),
  ];
  const dirtied = (ram['dirty-pages-rate'] ?? 0) * (ram['page-size'] ?? 4096);
  if (dirtied > 0) parts.push(`the guest dirties ${formatBytesPerSecond(dirtied)}`);
  const requests = ram['postcopy-requests'] ?? 0;
  if (requests > 0) parts.push(`${requests} page requests`);
  return `${status}  ${parts.join(', ')}`;
}

function formatTime(atMs: number): string {
  return `${(atMs / 1000).toFixed(2).padStart(8)} s`;
}
