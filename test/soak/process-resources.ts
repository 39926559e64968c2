/**
 * What a process holds of the kernel's things, read in /proc: what a leak makes more of.
 */
import { readdirSync, readFileSync } from 'node:fs';

export interface ProcessResources {
  readonly fds: number;
  readonly threads: number;
  readonly mappings: number;
  readonly residentBytes: number;
}

/** @throws {Error} `ENOENT` if there is no such process */
export function resourcesOf(pid: number): ProcessResources {
  const folder = `/proc/${pid}`;
  const status = readFileSync(`${folder}/status`, 'utf8');
  return {
    fds: readdirSync(`${folder}/fd`).length,
    threads: readdirSync(`${folder}/task`).length,
    mappings: readFileSync(`${folder}/maps`, 'utf8').split('\n').length - 1,
    residentBytes: Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024,
  };
}
