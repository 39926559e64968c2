/**
 * What a machine is, as its monitor tells, and whether a guest of one can run in the other.
 *
 * A stream holds the state of a machine's devices, so both must be the same machine: the destination finds that out only when
 * the stream has come, and then ends. Asked before, nothing has started yet. What a monitor does not tell is not compared.
 */
import { type QmpClient, QmpCommandError } from '../qemu/qmp-client.ts';
import { formatBytes } from '../telemetry/format.ts';

export interface MachineIdentity {
  /** `QEMU` or `postcopy` and the version. */
  readonly program: string;
  /** A machine of this program's own, rather than a QEMU. */
  readonly isBuiltIn: boolean;
  readonly version: readonly [major: number, minor: number, micro: number];
  /** As the stream names it, e.g. `pc-i440fx-7.2`. */
  readonly machineType: string | undefined;
  /** The architecture, e.g. `x86_64`. */
  readonly target: string | undefined;
  readonly memoryBytes: number | undefined;
  readonly cpuCount: number | undefined;
  /** Names of the monitor's commands. */
  readonly commands: ReadonlySet<string>;
}

const OWN_PACKAGE = 'postcopy ';
const TYPE_SUFFIX = '-machine';

/** @throws {QmpConnectionError} if the monitor does not answer */
export async function identifyMachine(client: QmpClient): Promise<MachineIdentity> {
  const { qemu, package: name } = client.greeting.version;
  const isBuiltIn = name.startsWith(OWN_PACKAGE);
  const commands = await known<{ name: string }[]>(client, 'query-commands');
  const type = await known<string>(client, 'qom-get', { path: '/machine', property: 'type' });
  const target = await known<{ arch: string }>(client, 'query-target');
  const memory = await known<{ 'base-memory': number }>(client, 'query-memory-size-summary');
  const cpus = await known<unknown[]>(client, 'query-cpus-fast');
  return {
    program: isBuiltIn ? name : `QEMU ${qemu.major}.${qemu.minor}.${qemu.micro}`,
    isBuiltIn,
    version: [qemu.major, qemu.minor, qemu.micro],
    machineType: type?.endsWith(TYPE_SUFFIX) ? type.slice(0, -TYPE_SUFFIX.length) : type,
    target: target?.arch,
    memoryBytes: memory?.['base-memory'],
    cpuCount: cpus?.length,
    commands: new Set(commands?.map((command) => command.name)),
  };
}

/** @returns why a guest of one cannot run in the other; undefined if nothing speaks against it */
export function whyNotAlike(source: MachineIdentity, destination: MachineIdentity): string | undefined {
  const [from, to] = [describe(source), describe(destination)];
  if (source.isBuiltIn !== destination.isBuiltIn) {
    return `The source is ${from}, the destination ${to}: that is another machine with other devices, and a guest cannot move between them`;
  }
  if (differ(source.machineType, destination.machineType)) {
    return `Another machine type: the source is ${from}, the destination ${to}. Start the destination with the machine type of the source`;
  }
  if (differ(source.target, destination.target)) {
    return `Another architecture: the source is a ${source.target}, the destination a ${destination.target}`;
  }
  if (differ(source.memoryBytes, destination.memoryBytes)) {
    const [has, needs] = [destination.memoryBytes, source.memoryBytes].map((bytes) =>
      formatBytes(bytes ?? 0),
    );
    return `Another memory size: the source has ${needs}, the destination ${has}. Start the destination with the same memory`;
  }
  if (differ(source.cpuCount, destination.cpuCount)) {
    return `Another number of processors: the source has ${source.cpuCount}, the destination ${destination.cpuCount}`;
  }
  return undefined;
}

/** What may go wrong though nothing forbids it; undefined if nothing. */
export function whatIsDoubtful(source: MachineIdentity, destination: MachineIdentity): string | undefined {
  for (const [index, number] of source.version.entries()) {
    const other = destination.version[index] ?? 0;
    if (other > number) return undefined;
    if (other < number) {
      return `The destination (${destination.program}) is older than the source (${source.program}): it may lack a device or feature that the guest has`;
    }
  }
  return undefined;
}

function describe({ program, machineType }: MachineIdentity): string {
  return machineType === undefined ? program : `${program} (${machineType})`;
}

function differ<Value>(one: Value | undefined, other: Value | undefined): boolean {
  return one !== undefined && other !== undefined && one !== other;
}

/** What a command returns; undefined if the monitor does not have it, or not for this machine. */
async function known<Result>(
  client: QmpClient,
  command: string,
  args: Readonly<Record<string, unknown>> = {},
): Promise<Result | undefined> {
  try {
    return await client.execute<Result>(command, args);
  } catch (error) {
    if (error instanceof QmpCommandError) return undefined;
    throw error;
  }
}
