/**
 * What our figures are held against: the same bytes between two idle processes over the same loopback, without a
 * migration. See bare-socket-process.ts.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';

type Transfer =
  | { readonly kind: 'copy'; readonly lengthBytes: number }
  | {
      readonly kind: 'round-trip';
      readonly requestBytes: number;
      readonly replyBytes: number;
      readonly rounds: number;
    };

/** Without a peer the process listens, and answers or receives. */
export type BareJob = Transfer & { readonly peer?: string };

export type BareResult =
  | { readonly kind: 'listening'; readonly address: string }
  | { readonly kind: 'asked'; readonly samplesUs: readonly number[] }
  | { readonly kind: 'copied'; readonly elapsedMs: number };

/** @returns how long `lengthBytes` take from the memory of one process to that of the other, in milliseconds */
export async function bareCopyMs(lengthBytes: number): Promise<number> {
  const result = await transfer({ kind: 'copy', lengthBytes });
  assert(result.kind === 'copied');
  return result.elapsedMs;
}

/** @returns each round trip of a request and its reply, in microseconds */
export async function bareRoundTripsUs(
  requestBytes: number,
  replyBytes: number,
  rounds: number,
): Promise<readonly number[]> {
  const result = await transfer({ kind: 'round-trip', requestBytes, replyBytes, rounds });
  assert(result.kind === 'asked');
  return result.samplesUs;
}

async function transfer(work: Transfer): Promise<BareResult> {
  const children: ChildProcess[] = [];
  const start = (job: BareJob): Promise<BareResult> => {
    const child = fork(fileURLToPath(new URL('./bare-socket-process.js', import.meta.url)), [
      JSON.stringify(job),
    ]);
    children.push(child);
    return new Promise((resolve, reject) => {
      child.once('message', resolve);
      child.once('exit', (code) => reject(new Error(`A bare transfer ended early, with code ${code}`)));
    });
  };
  try {
    const listening = await start(work);
    assert(listening.kind === 'listening');
    return await start({ ...work, peer: listening.address });
  } finally {
    for (const child of children) child.kill('SIGKILL');
  }
}
