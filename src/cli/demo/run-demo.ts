/**
 * What the demo does: two processes, a migration between them, and the evidence afterwards.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { MigrationInfo } from '../../migration/migration-info.ts';
import { formatBytes, formatBytesPerSecond } from '../../telemetry/format.ts';
import { guestImagePath } from '../package-info.ts';
import { MachineProcess, type Tick } from './machine-process.ts';
import { type MemoryProof, proveMemory } from './memory-proof.ts';

export interface DemoSettings {
  readonly memoryBytes: number;
  readonly guest: 'counter' | 'random' | 'reader';
  /** Bytes a second that the link carries. */
  readonly bandwidth: number;
  readonly startTimeMs: number;
}

export interface DemoReport {
  readonly settings: DemoSettings;
  readonly source: MigrationInfo;
  readonly destination: MigrationInfo;
  /** The guest's last line at the source and its first at the destination. */
  readonly lastTick: Tick | undefined;
  readonly firstTick: Tick | undefined;
  readonly proof: MemoryProof | undefined;
  /** What speaks against the migration; empty if nothing does. */
  readonly objections: readonly string[];
  readonly isWhole: boolean;
  readonly wallMs: number;
}

/** All of it must be over in this time, on a slow machine too. */
const PATIENCE_MS = 50_000;
const TICKS_AFTERWARDS = 3;
/** Guest time between two ticks is a tenth of a second; a guest that ran late may be this much over. */
const MAX_TICK_GAP_MS = 1000;

/** @param say gets a line for each thing that happens */
export async function runDemo(settings: DemoSettings, say: (line: string) => void): Promise<DemoReport> {
  const startedAtMs = performance.now();
  const deadlineMs = startedAtMs + PATIENCE_MS;
  const folder = mkdtempSync(join(tmpdir(), 'postcopy-demo-'));
  const machines: MachineProcess[] = [];
  const start = (args: string[], name: string) => {
    const machine = new MachineProcess(
      ['--memory', String(settings.memoryBytes / 2 ** 20), ...args],
      join(folder, name),
    );
    machines.push(machine);
    return machine;
  };
  const clean = async () => {
    await Promise.all(machines.map((machine) => machine.end()));
    rmSync(folder, { recursive: true, force: true });
  };
  const onSignal = () => void clean().then(() => process.exit(130));
  process.once('SIGINT', onSignal);
  process.once('SIGTERM', onSignal);
  const at = () => `${((performance.now() - startedAtMs) / 1000).toFixed(2).padStart(6)} s`;
  try {
    const { guest, bandwidth, startTimeMs } = settings;
    const destination = start(['--incoming', 'tcp:127.0.0.1:0'], 'destination.qmp');
    const source = start(['--kernel', guestImagePath(guest)], 'source.qmp');
    await Promise.all([source.start(deadlineMs), destination.start(deadlineMs)]);
    const incoming = await destination.execute<MigrationInfo>('query-migrate');
    const address = incoming['socket-address']?.[0] ?? '';
    await source.waitFor('the guest', deadlineMs, () => source.ticks.length >= 2);
    say(
      `${at()}  source       process ${source.pid}: guest "${guest}" runs in ${formatBytes(settings.memoryBytes)}`,
    );
    say(`${at()}  destination  process ${destination.pid}: waits at ${address}`);

    await source.execute('migrate-set-capabilities', {
      capabilities: [{ capability: 'postcopy-ram', state: true }],
    });
    await source.execute('migrate-set-parameters', {
      'max-bandwidth': bandwidth,
      'max-postcopy-bandwidth': bandwidth,
      'x-postcopy-start-time': startTimeMs,
    });
    await source.execute('migrate', { uri: address });
    say(`${at()}  migrate      precopy begins, held to ${formatBytesPerSecond(bandwidth)}`);
    await follow(source, deadlineMs, (status) => say(`${at()}  source       ${status}`));
    await follow(destination, deadlineMs, (status) => say(`${at()}  destination  ${status}`));

    await destination.waitFor(
      'the guest to go on',
      deadlineMs,
      () => destination.ticks.length >= TICKS_AFTERWARDS,
    );
    await destination.execute('stop');
    const paths = { source: join(folder, 'source.mem'), destination: join(folder, 'destination.mem') };
    const whole = { val: 0, size: settings.memoryBytes };
    await source.execute('pmemsave', { ...whole, filename: paths.source });
    await destination.execute('pmemsave', { ...whole, filename: paths.destination });
    const evidence = {
      settings,
      source: await source.execute<MigrationInfo>('query-migrate'),
      destination: await destination.execute<MigrationInfo>('query-migrate'),
      lastTick: source.ticks.at(-1),
      firstTick: destination.ticks[0],
    };
    const { proof, objections } = judge(evidence, [...source.complaints, ...destination.complaints], paths);
    const wallMs = performance.now() - startedAtMs;
    return { ...evidence, proof, objections, isWhole: objections.length === 0, wallMs };
  } finally {
    process.off('SIGINT', onSignal);
    process.off('SIGTERM', onSignal);
    await clean();
  }
}

/** Reports each state of the migration until it is over. */
async function follow(
  machine: MachineProcess,
  deadlineMs: number,
  onStatus: (status: string) => void,
): Promise<void> {
  let last = '';
  await machine.waitFor('the end of the migration', deadlineMs, async () => {
    const info = await machine.execute<MigrationInfo>('query-migrate');
    const status = info.status ?? 'none';
    if (status !== last)
      onStatus(status + (info['error-desc'] === undefined ? '' : `: ${info['error-desc']}`));
    last = status;
    return ['completed', 'failed', 'cancelled', 'postcopy-paused'].includes(status);
  });
}

function judge(
  evidence: Pick<DemoReport, 'source' | 'destination' | 'lastTick' | 'firstTick'>,
  complaints: readonly string[],
  paths: { readonly source: string; readonly destination: string },
): Pick<DemoReport, 'proof' | 'objections'> {
  const { source, destination, lastTick, firstTick } = evidence;
  const objections = complaints.map((line) => `the guest says: ${line}`);
  if (source.status !== 'completed') objections.push(`the source ended as "${source.status}"`);
  if (destination.status !== 'completed') objections.push(`the destination ended as "${destination.status}"`);
  if (source['x-postcopy-cause'] !== 'start-time') objections.push('precopy did not give way by itself');
  if (lastTick === undefined || firstTick === undefined) objections.push('the guest fell silent');
  else {
    const gapMs = firstTick.guestMs - lastTick.guestMs;
    if (firstTick.tick !== lastTick.tick + 1) {
      objections.push(`tick ${lastTick.tick} at the source was followed by tick ${firstTick.tick}`);
    }
    if (firstTick.nonce !== lastTick.nonce) objections.push('it is another guest: the nonce has changed');
    if (gapMs < 0 || gapMs > MAX_TICK_GAP_MS)
      objections.push(`the guest's clock went on by ${gapMs} ms in one tick`);
  }
  let proof: MemoryProof | undefined;
  try {
    proof = proveMemory(paths.source, paths.destination);
    objections.push(...proof.differences);
    if (proof.source.nonce !== proof.destination.nonce) objections.push('the nonce in memory has changed');
  } catch (error) {
    objections.push((error as Error).message);
  }
  return { proof, objections };
}
