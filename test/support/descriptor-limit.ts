/**
 * How many descriptors a running process may open, for what must not go wrong when there are no more.
 */
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { type Skippable, skipUnless } from './requirements.ts';

/** @returns whether limits can be set; if not, the test has been marked as skipped */
export function needsDescriptorLimits(t: Skippable): boolean {
  const { status } = spawnSync('prlimit', ['--version']);
  return skipUnless(t, 'prlimit(1)', status === 0, 'it is not installed (util-linux)');
}

/** From now on the process can open so many descriptors more than it has. */
export function allowMoreDescriptors(pid: number, count: number): void {
  const used = new Set(readdirSync(`/proc/${pid}/fd`).map(Number));
  let limit = 0;
  for (let free = 0; free < count || used.has(limit); limit++) if (!used.has(limit)) free++;
  const { status, stderr } = spawnSync('prlimit', ['--pid', String(pid), `--nofile=${limit}:`], {
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`The limit of process ${pid} cannot be set: ${stderr}`);
}
