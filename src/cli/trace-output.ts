/**
 * Writes the trace of a machine as lines, to standard error or to a file.
 */
import { closeSync, openSync, writeSync } from 'node:fs';
import type { TraceName } from '../telemetry/trace-events.ts';
import { formatTraceEvent } from '../telemetry/trace-format.ts';
import type { Vm } from '../vm/vm.ts';

/**
 * @param path file to write, or undefined for standard error
 * @returns a function that ends this
 */
export function connectTraceOutput(vm: Vm, path: string | undefined): () => void {
  const fd = path === undefined ? undefined : openSync(path, 'w');
  const onTrace = (name: TraceName, fields: Readonly<Record<string, unknown>>, atMs: number) => {
    const line = `${formatTraceEvent(name, fields, atMs)}\n`;
    // Not writeSync(2): a pipe there is non-blocking, and a full one would throw.
    if (fd === undefined) process.stderr.write(line);
    else writeSync(fd, line);
  };
  vm.on('trace', onTrace);
  return () => {
    vm.off('trace', onTrace);
    if (fd !== undefined) closeSync(fd);
  };
}
